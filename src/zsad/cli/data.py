"""List, show, check, fetch, prepare and export data sets."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from zsad.cli.arguments import Parser
from zsad.cli.data_shown import data_list, data_show, show_report
from zsad.cli.model_options import read_options
from zsad.datamodules import BenchmarkDataModule
from zsad.datamodules.facts import all_facts
from zsad.datamodules.tools import check, download, export, prepare
from zsad.datamodules.tools.build import build


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the command."""
    status = "Exit status: 0 all is well, 1 something is wrong with the data, 2 the request cannot be met."
    made = Parser("zsad data", __doc__, epilog=status)
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
    """Run a command; return 0 if all is well, 1 if something is wrong with the data."""
    args = parser().parse_args(arguments)
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "list": lambda args: data_list(args.as_json),
        "show": lambda args: data_show(args.name, args.as_json),
        "check": _check,
        "download": _download,
        "prepare": _prepare,
        "export": _export,
    }
    return commands[args.command](args)


def _check(args: argparse.Namespace) -> int:
    report = check(_chosen(args), args.split, progress=not args.as_json)
    if args.as_json:
        content = dataclasses.asdict(report) | {"good": report.good}
        if not args.images:
            del content["images"]
        Console().print_json(data=content)
    else:
        show_report(report, Console())
    return 0 if report.good else 1


def _download(args: argparse.Namespace) -> int:
    facts = all_facts().get(args.name)
    if facts is None:
        raise ValueError(f"Unknown data set '{args.name}'; known: {', '.join(all_facts())}.")
    folder, archive = Path(args.root).expanduser() / args.name, None if args.archive is None else Path(args.archive)
    found: dict[str, Any] = {"name": facts.key, "status": "done", "folder": str(folder)}
    if folder.is_dir():
        text = f"{facts.title} is there: {folder} (checked by: zsad data check {args.name})"
        return _tell(args, found | {"status": "there", "text": text}, text)
    if archive is None and facts.download is None:
        text = f"{facts.title} has no direct link that may be used. {facts.obtain}\n"
        text += f"Home: {facts.home or '-'}\nLicence: {facts.license}\nExpected layout: {facts.layout}"
        if facts.sha256:
            text += f"\nSHA-256 of {facts.archive}: {facts.sha256} (compared and unpacked with archive=FILE)"
        _tell(args, found | {"status": "manual", "folder": None, "text": text}, text)
        return 1
    if archive is None and not args.as_json:
        Console().print(f"{facts.title}, licence: {facts.license}, home: {facts.home}", markup=False)
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    hidden = args.as_json or archive is not None
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as bar:
        task = bar.add_task(facts.title, total=None)
        told = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
        download(facts, folder, archive, args.keep_archive, told)
    text = f"{facts.title} is in {folder}. Check it: zsad data check {args.name} --root {folder}"
    return _tell(args, found | {"text": text}, text)


def _prepare(args: argparse.Namespace) -> int:
    number = prepare(_chosen(args), Path(args.out).expanduser(), args.files, progress=not args.as_json)
    return _written(args, number, f"{number} images of {args.name} in {args.out}")


def _export(args: argparse.Namespace) -> int:
    number = export(_chosen(args), Path(args.out).expanduser(), args.kind)
    return _written(args, number, f"{number} test images of {args.name} listed in {args.out}")


def _chosen(args: argparse.Namespace) -> BenchmarkDataModule:
    return build(args.name, args.root, read_options(args.options))


def _written(args: argparse.Namespace, number: int, text: str) -> int:
    return _tell(args, {"name": args.name, "out": args.out, "images": number}, text)


def _tell(args: argparse.Namespace, content: dict[str, Any], text: str) -> int:
    if args.as_json:
        Console().print_json(data=content)
    else:
        Console().print(text, markup=False, highlight=False)
    return 0
