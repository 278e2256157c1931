"""Fill the cache of a language model's answers and show the prompts that ALFA makes of them.

The packaged answers (default) are a hand-written stand-in and need no network.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zsad.cli.arguments import Parser
from zsad.datamodules.facts import all_facts
from zsad.methods.alfa.filling import fill_cache
from zsad.methods.alfa.prompts import LABELS


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the command."""
    made = Parser(
        "zsad prompts",
        __doc__,
        epilog="A key is read from the environment only: from OPENAI_API_KEY, or from the variable that "
        "--option api_key_env=NAME names.",
    )
    made.add_argument("--classes", nargs="+", default=[], metavar="CLASS", help="raw class names")
    made.add_argument("--data", metavar="KEY", help=f"classes of a benchmark: {', '.join(all_facts())}")
    made.add_argument("--llm", default="packaged", help="packaged, openai:<model> or hf:<model> (default: %(default)s)")
    made.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="option of the back-end, "
                      "e.g. base_url=http://localhost:8000/v1, endpoint=completions, timeout_s=120")  # fmt: skip
    made.add_argument(
        "--mode", default="cache_first", choices=("cache_first", "offline", "refresh"), help="use of the cache"
    )
    made.add_argument("--cache-dir", type=Path, metavar="DIR", help="folder of the cache (default: the user's)")
    made.add_argument("--seed", type=int, default=0, help="of the first question (default: %(default)s)")
    made.add_argument("--min-per-label", type=int, metavar="N", help="ask again below this number (default: 16)")
    made.add_argument("--max-per-label", type=int, metavar="N", help="keep the first so many (default: 144)")
    made.add_argument("--free-form", action="store_true", help="do not ask for a common beginning (paper, table 3)")
    made.add_argument("--templates", action="store_true", help="show template prompts as well")
    made.add_argument("--descriptors", action="store_true", help="ask for and show the descriptors of explanations too")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0 if every class has prompts of the language model, else 1."""
    args = parser().parse_args(arguments)
    backend, _, model = args.llm.partition(":")
    options = dict(_option(text) for text in args.option)
    classes, readable = list(args.classes), {}
    if args.data is not None:
        if args.data not in all_facts():
            raise ValueError(f"Unknown benchmark '{args.data}', known: {', '.join(all_facts())}.")
        facts = all_facts()[args.data]
        classes, readable = classes or list(facts.classes), dict(facts.readable)
    if not classes:
        raise ValueError("Name classes with --classes, or a benchmark with --data.")
    found = fill_cache(
        classes,
        {"backend": backend, **({"model": model} if model else {}), **options},
        mode=args.mode,
        cache_dir=args.cache_dir,
        templates=args.templates,
        descriptors=args.descriptors,
        readable=readable,
        seed=args.seed,
        min_per_label=args.min_per_label,
        max_per_label=args.max_per_label,
        consistent=not args.free_form,
    )
    shown: dict[str, Mapping[str, Sequence[str]]] = {}
    complete = True
    for one in found:
        complete &= one.complete
        for problem in one.problems:
            print(f"{one.name}: {problem}", file=sys.stderr)
        if one.sides is not None:
            shown[one.name] = one.sides
            if not args.json:
                _show(one.name, one.sides)
    if args.json:
        print(json.dumps({"llm": one.llm, "prompts": shown}, ensure_ascii=False, indent=1))
    return 0 if complete else 1


def _show(name: str, sides: Mapping[str, Sequence[str]]) -> None:
    for label in (*LABELS, "descriptors"):
        if label in sides:
            print(f"{name}, {label}: {len(sides[label])}")
            for text in sides[label]:
                print(f"  {text}")


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--option takes NAME=VALUE, got '{text}'.")
    try:
        return name, json.loads(value)  # numbers, true, null
    except ValueError:
        return name, value
