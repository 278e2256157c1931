"""``zsad prompts``: ask a language model for the prompts of classes, keep its answers in the cache, show them."""

import argparse
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import open_clip

from zsad.cli.arguments import Parser
from zsad.datamodules.facts import all_facts
from zsad.llm import LLM, AnswerCache, CacheMode, LLMError, LLMWarning, OfflineError, load_llm
from zsad.methods.alfa.prompts import LABELS, PromptWriter, load_alfa_prompts


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the command."""
    made = Parser(
        prog="zsad prompts",
        description="Fill the cache of a language model's answers and show the prompts that ALFA makes of them. The "
        "packaged answers (default) are a hand-written stand-in and need no network.",
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
    """Run the command; see :func:`fill_cache`."""
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
    return fill_cache(
        classes,
        load_llm({"backend": backend, **({"model": model} if model else {}), **options}),
        mode=args.mode,
        cache_dir=args.cache_dir,
        seed=args.seed,
        min_per_label=args.min_per_label,
        max_per_label=args.max_per_label,
        consistent=not args.free_form,
        templates=args.templates,
        descriptors=args.descriptors,
        readable=readable,
        as_json=args.json,
    )


def fill_cache(
    classes: Sequence[str],
    llm: str | Mapping[str, Any] | LLM = "packaged",
    mode: CacheMode = "cache_first",
    cache_dir: str | Path | None = None,
    seed: int = 0,
    min_per_label: int | None = None,
    max_per_label: int | None = None,
    consistent: bool = True,
    templates: bool = False,
    descriptors: bool = False,
    readable: Mapping[str, str] | None = None,
    as_json: bool = False,
    out: TextIO | None = None,
) -> int:
    """Return 0 if every class has prompts of the language model, else 1; a class that fails does not stop the others.

    Args:
        classes: Raw class names.
        llm: The language model, see :func:`zsad.llm.load_llm`.
        mode: Use of the cache.
        cache_dir: Folder of the cache; None for the user's.
        seed: Of the first question.
        min_per_label: Ask again below this number of sentences; None for the word lists'.
        max_per_label: Keep the first so many; None for the word lists'.
        consistent: Ask for sentences that begin alike.
        templates: Show template prompts as well.
        descriptors: Ask for descriptors as well.
        readable: Raw class name -> readable name, for classes that the word lists do not have.
        as_json: Print one JSON object instead of lines.
        out: Where to print; None for the standard output. Warnings and errors go to the standard error.

    Raises:
        ValueError: If an option is out of its range.
    """
    out = sys.stdout if out is None else out
    tokenizer = open_clip.SimpleTokenizer()
    model, cache = load_llm(llm), AnswerCache(cache_dir, mode)
    lists = load_alfa_prompts()
    writer = PromptWriter(
        lists,
        model,
        cache,
        lambda text: len(tokenizer.encode(text)) + 2,
        consistent=consistent,
        seed=seed,
        min_per_label=min_per_label,
        max_per_label=max_per_label,
    )
    writer.readable.update(readable or {})
    shown: dict[str, dict[str, list[str]]] = {}
    failed = 0
    for name in dict.fromkeys(classes):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", LLMWarning)
            try:
                shown[name] = {**writer.write(name)._asdict()}
                if not templates:  # written all the same: an answer that repeats one does not count
                    word = writer.word(name)
                    shown[name] = {one: shown[name][one][len(lists.templates(word, one)) :] for one in LABELS}
                if descriptors:
                    shown[name]["descriptors"] = writer.describe(name)
            except (LLMError, OfflineError) as error:
                failed += 1
                print(f"{name}: {error}", file=sys.stderr)
        for warning in caught:
            print(f"{name}: {warning.message}", file=sys.stderr)
        if not as_json and name in shown:
            _show(name, shown[name], out)
    if as_json:
        print(json.dumps({"llm": model.name, "prompts": shown}, ensure_ascii=False, indent=1), file=out)
    return int(failed > 0 or bool(writer.stand_ins))


def _show(name: str, sides: Mapping[str, Sequence[str]], out: TextIO) -> None:
    for label in (*LABELS, "descriptors"):
        if label in sides:
            print(f"{name}, {label}: {len(sides[label])}", file=out)
            for text in sides[label]:
                print(f"  {text}", file=out)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--option takes NAME=VALUE, got '{text}'.")
    try:
        return name, json.loads(value)  # numbers, true, null
    except ValueError:
        return name, value
