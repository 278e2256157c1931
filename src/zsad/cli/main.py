"""The command ``zsad``: one door, behind which each command is a thin call into the library."""

import gc
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import ModuleType

from zsad import __version__
from zsad.cli.words import speaking, spoken

COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("zsad.cli.demo", "take a generated product from good parts to the line, then compare all methods"),
    "score": ("zsad.cli.score", "score every image of a folder, with heat maps; goes on where it stopped"),
    "collect": ("zsad.cli.collect", "make the files of a run of the rows that a cluster wrote"),
    "calibrate": ("zsad.cli.calibrate", "make a card of good parts: which scores are unusual, and how sure that is"),
    "drift": ("zsad.cli.drift", "tell changed images from more defects, in the scores of a run"),
    "export": ("zsad.cli.export", "write a model as a folder that needs no torch, with its proof"),
    "export-regions": ("zsad.cli.export_regions", "write a run's regions for COCO, Label Studio, CVAT or as masks"),
    "relabel": ("zsad.cli.relabel", "give the rows of a run other labels, without scoring again"),
    "fit": ("zsad.cli.trainer", "train a method on a data set (Lightning)"),
    "validate": ("zsad.cli.trainer", "evaluate on the validation part (Lightning)"),
    "test": ("zsad.cli.trainer", "evaluate a method on a benchmark (Lightning)"),
    "predict": ("zsad.cli.trainer", "write scores and maps of a benchmark (Lightning)"),
    "evaluate": ("zsad.cli.evaluate", "compute the metrics of maps from elsewhere"),
    "data": ("zsad.cli.data", "list, check, prepare, download or export data sets"),
    "prompts": ("zsad.cli.prompts", "fill and show the prompts that a language model writes for ALFA"),
    "benchmark": ("zsad.cli.benchmark", "run a grid of methods, data sets and seeds; goes on where it stopped"),
    "report": ("zsad.cli.report", "make tables and a page of a benchmark's results"),
    "check": ("zsad.cli.check", "compute one cell of a benchmark again and compare"),
    "weights": ("zsad.cli.weights", "list, download, check, add and publish trained adapters"),
    "serve": ("zsad.cli.serve", "score images that come over HTTP, with a page for the browser"),
    "new": ("zsad.cli.new", "write a method that works and its test, to begin with"),
    "doctor": ("zsad.cli.doctor", "show versions, devices, cached weights and what works offline"),
}
"""Name -> module with a ``main(arguments)``, and what it does; the module is imported only when it is asked for."""

_TRAINER = "zsad.cli.trainer"
_ARGUMENTS = {"score": "zsad.cli.score_arguments"}
"""Where the arguments of a command are that needs torch: its help and mistakes in them do not wait for that."""


def usage() -> str:
    """Return the text of ``zsad --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: zsad COMMAND ... [--debug]",
            "",
            "Zero-shot visual anomaly detection with CLIP.",
            "",
            "commands:",
            *lines,
            "",
            "  zsad COMMAND --help  shows a command's arguments",
            "  zsad --version       shows the version",
            "  --debug              shows the whole trace of an error (or set ZSAD_DEBUG=1)",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0 done, 2 the user's error, in one message, 130 interrupted."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in args or os.environ.get("ZSAD_DEBUG", "") not in ("", "0")
    args = [arg for arg in args if arg != "--debug"]
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if args else 2
    if args[0] == "--version":
        print(f"zsad {__version__}")
        return 0
    if args[0] not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.0)[0]
        return _fail(f"Unknown command '{args[0]}'. Did you mean '{near}'? Commands: {', '.join(COMMANDS)}.")
    if args[0] in _ARGUMENTS:
        importlib.import_module(_ARGUMENTS[args[0]]).parser().parse_intermixed_args(args[1:])
    command = COMMANDS[args[0]][0]
    module = _imported_for_good(command) if arguments is None else importlib.import_module(command)
    try:
        with speaking(args[0]):
            return int(module.main(args if module.__name__ == _TRAINER else args[1:]))
    except KeyboardInterrupt:
        print("zsad: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more at exit
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        if debug or _is_users(error):
            return _fail(spoken(args[0], _sentence(error)))
        raise


def _imported_for_good(name: str) -> ModuleType:
    """Import what a process of its own runs, out of sight of the garbage collector: it all stays until the end.

    Looking at it again and again takes a quarter of the time of a start.
    """
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _is_users(error: Exception) -> bool:
    """Whether the message says what to do; anything else is our own fault and shows its trace."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from zsad.methods import CheckpointError

    return isinstance(error, (ValueError, TypeError, OSError, CheckpointError, MisconfigurationException))


def _sentence(error: Exception) -> str:
    """What an error says; of one that the system raised, without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename and type(error).__str__ is OSError.__str__:
        return f"{error.strerror}: '{error.filename}'."
    return str(error) or type(error).__name__


def _fail(message: str) -> int:
    print(f"zsad: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
