"""Mistakes in the arguments of Lightning's commands as one sentence with the nearest names."""

import difflib
import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

from lightning.pytorch import Trainer

from zsad.datamodules import get_datamodule
from zsad.methods import get_method
from zsad.methods.restoring import constructor_options

_TOP = ("config", "out", "ckpt_path", "seed_everything", "verbose", "weights_only", "print_config", "help", "model",
        "calibration", "data", "trainer", "return_predictions")  # fmt: skip
_PARSER = ("help", "class_path", "init_args", "dict_kwargs", "config")


def check_options(arguments: Sequence[str]) -> None:
    """Refuse unknown names of methods, data sets and options before the parser prints its usage.

    Args:
        arguments: Of ``zsad test`` and its like, as typed.

    Raises:
        ValueError: A name is not known; the nearest ones are said.
    """
    classes: dict[str, Any] = {}
    for flag, value in pairs(arguments):
        if (
            flag in ("--model", "--data")
            and value not in ("", "Joined")
            and not value.endswith((".yaml", ".yml", ".json"))
        ):
            find: Any = get_method if flag == "--model" else get_datamodule
            classes[flag[2:]] = find(value, by_hand=True)
    for flag, _ in pairs(arguments):
        group, _, rest = flag[2:].partition(".")
        option = rest.removeprefix("init_args.").partition(".")[0]
        if group == "trainer" and option and option not in _PARSER:
            _known(option, list(inspect.signature(Trainer.__init__).parameters)[1:], flag, "The Trainer")
        elif group in classes and option and option not in _PARSER:
            kind = classes[group]
            _known(option, constructor_options(kind), flag, kind.__name__)
        elif not rest and not group.startswith("print_config"):
            _known(group, _TOP, flag, "The command")


def one_line(text: str) -> str:
    """Return what a parser's message of many lines says, without what was given, which may be a page."""
    if "Errors:" in text:
        text = text.partition("Errors:")[2]
    for end in ("- Expected a <class 'NoneType'>", "Given value type:"):
        text = text.partition(end)[0]
    text = re.sub(r"Problem with given class_path '[^']*':", "", text)
    text = re.sub(r'Parser key "([\w.]+)":', r"\1:", text)
    return " ".join(text.split()).removeprefix("- ").strip()


def pairs(arguments: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Yield the flags of a command line with their values; ``--a=b`` and ``--a b`` are one."""
    for number, argument in enumerate(arguments):
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            following = arguments[number + 1] if number + 1 < len(arguments) else ""
            yield flag.removesuffix("+"), value if equals else following


def _known(name: str, names: Iterable[str], flag: str, whose: str) -> None:
    names = list(names)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
        shown = ", ".join(f"'{flag[: len(flag) - len(name)]}{one}'" for one in near)
        raise ValueError(f"{whose} has no option '{flag}'. Nearest: {shown}.")
