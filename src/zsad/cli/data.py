"""``zsad data``: the arguments of its six commands."""

import argparse
from collections.abc import Callable, Sequence

from zsad.cli.arguments import Parser
from zsad.cli.model_options import read_options
from zsad.datamodules.tools.check import data_check
from zsad.datamodules.tools.download import data_download
from zsad.datamodules.tools.export import data_export
from zsad.datamodules.tools.listing import data_list, data_show
from zsad.datamodules.tools.prepare import data_prepare


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the command."""
    made = Parser(
        prog="zsad data",
        description="List, show, check, fetch, prepare and export data sets.",
        epilog="Exit status: 0 all is well, 1 something is wrong with the data, 2 the request cannot be met.",
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="what exists, in a line each")
    show = commands.add_parser("show", help="all that is known of one: terms, where to get it, layout, classes")
    check = commands.add_parser("check", help="is a copy complete, readable and as the papers counted it?")
    check.add_argument("--split", default="test", help="part to check (default: %(default)s)")
    check.add_argument("--images", action="store_true", help="with --json, list every image")
    download = commands.add_parser("download", help="fetch and unpack, or print how to get it by hand")
    download.add_argument("--archive", metavar="FILE", help="unpack this archive, which you downloaded yourself")
    download.add_argument("--keep-archive", action="store_true", help="do not delete the archive afterwards")
    prepare = commands.add_parser("prepare", help="write a cut or selected copy (visa, sdd, covid19)")
    prepare.add_argument("--files", choices=("copy", "symlink"), default="copy", help="default: %(default)s")
    export = commands.add_parser("export", help="write meta.json, AA-CLIP's JSON lines or a CSV manifest")
    export.add_argument("--kind", choices=("meta", "jsonl", "csv"), default="meta", help="default: %(default)s")
    for one in (show, check, download, prepare, export):
        one.add_argument("name", help="key of the data set, see: zsad data list; or folder")
        if one is show:
            continue
        if one is download:
            one.add_argument("--root", default="datasets", help="folder of data sets (default: %(default)s)")
            continue
        one.add_argument("--root", required=True, help="where the data are")
        one.add_argument("--option", action="append", default=[], dest="options", metavar="NAME=VALUE",
                         help="option of the data module, e.g. pieces=3, classes=[bottle]")  # fmt: skip
    for one in (prepare, export):
        one.add_argument("--out", required=True, help="what to write")
    for one in commands.choices.values():
        one.add_argument("--json", action="store_true", dest="as_json", help="print JSON")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status."""
    given = vars(parser().parse_args(arguments))
    command = given.pop("command")
    if "options" in given:
        given["options"] = read_options(given["options"])
    functions: dict[str, Callable[..., int]] = {
        "list": data_list,
        "show": data_show,
        "check": data_check,
        "download": data_download,
        "prepare": data_prepare,
        "export": data_export,
    }
    return functions[command](**given)
