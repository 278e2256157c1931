"""The prompts of many classes: a language model is asked for each, and its answers stay in the cache."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip

from zsad.llm import LLM, AnswerCache, CacheMode, LLMError, LLMWarning, OfflineError, load_llm
from zsad.methods.alfa.prompts import LABELS, PromptWriter, load_alfa_prompts


@dataclass(frozen=True)
class Filled:
    """What there is now for a class.

    Args:
        name: The class.
        llm: Name of the language model.
        sides: ``normal``, ``abnormal`` and, if asked for, ``descriptors`` -> texts; None if the model failed.
        problems: A sentence each: why it failed, and what was doubtful.
        complete: Whether all that was asked for is the language model's own.
    """

    name: str
    llm: str
    sides: Mapping[str, Sequence[str]] | None
    problems: Sequence[str]
    complete: bool


def fill_cache(
    classes: Sequence[str],
    llm: str | Mapping[str, Any] | LLM = "packaged",
    mode: CacheMode = "cache_first",
    cache_dir: str | Path | None = None,
    templates: bool = False,
    descriptors: bool = False,
    readable: Mapping[str, str] | None = None,
    **options: Any,
) -> Iterator[Filled]:
    """Yield what a language model says of classes; one that fails does not stop the others.

    Args:
        classes: Raw class names.
        llm: The language model, see :func:`zsad.llm.load_llm`.
        mode: Use of the cache.
        cache_dir: Folder of the cache; None for the user's.
        templates: Return template prompts as well.
        descriptors: Ask for descriptors as well.
        readable: Raw class name -> readable name, for classes that the word lists do not have.
        **options: Of :class:`~zsad.methods.alfa.prompts.PromptWriter`: ``seed``, ``consistent``, ``min_per_label``, ...

    Raises:
        ValueError: If an option is out of its range.
    """
    tokenizer, lists, model = open_clip.SimpleTokenizer(), load_alfa_prompts(), load_llm(llm)
    count = lambda text: len(tokenizer.encode(text)) + 2  # noqa: E731
    writer = PromptWriter(lists, model, AnswerCache(cache_dir, mode), count, **options)
    writer.readable.update(readable or {})
    for name in dict.fromkeys(classes):
        sides: dict[str, list[str]] | None = None
        problems: list[str] = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", LLMWarning)
            try:
                found = {**writer.write(name)._asdict()}
                if not templates:  # written all the same: an answer that repeats one does not count
                    word = writer.word(name)
                    found = {label: found[label][len(lists.templates(word, label)) :] for label in LABELS}
                if descriptors:
                    found["descriptors"] = writer.describe(name)
                sides = found
            except (LLMError, OfflineError) as error:
                problems.append(str(error))
        problems += [str(one.message) for one in caught]
        stood_in = any(one == name for one, _ in writer.stand_ins)
        yield Filled(name, model.name, sides, problems, sides is not None and not stood_in)
