"""ALFA's prompts of a class: templates from word lists, sentences and descriptors from a language model."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

from zsad.llm import LLM, AnswerCache, LLMWarning, PackagedLLM
from zsad.methods.alfa.answers import is_description, parse_answer, same_text
from zsad.prompts.yaml_text import read_yaml

Label = Literal["normal", "abnormal"]
LABELS: tuple[Label, Label] = ("normal", "abnormal")
ROUNDS = 3
"""How often a label is asked for before too few sentences are accepted."""
DESCRIPTORS = "descriptors"


class ClassWord(NamedTuple):
    """How a class is called in prompts."""

    name: str
    """Readable name."""
    article: bool
    """Whether "a" or "an" goes before it."""

    @property
    def phrase(self) -> str:
        """The name with its article, if it takes one."""
        return with_article(self.name) if self.article else self.name


def with_article(words: str) -> str:
    """Return words with "a" or "an" in front, by their first letter."""
    return f"{'an' if words[:1].casefold() in tuple('aeiou') else 'a'} {words}"


@dataclass(frozen=True)
class AlfaPrompts:
    """The word lists: template parts, class names, query texts.

    Args:
        source: Where they come from.
        domains: Words before "image"; may hold the empty one.
        states: Label -> words before the class.
        details: Label -> what follows "with"; may hold the empty one.
        one_class: The single normal prompt, with ``{article_class}``.
        classes: Raw class name -> how it is called.
        queries: Questions, with ``{article_label}`` and ``{class}``.
        consistency_suffix: Tells the model how to begin, with ``{label_image_prefix}`` and ``{class}``.
        label_image_prefix: Label -> that beginning.
        format_suffix: Tells the model to write ``{n}`` lines.
        n_per_query: That number.
        min_per_label: With fewer sentences the model is asked again.
        max_per_label: Sentences beyond are left out.
        descriptor_query: Question for descriptors, with ``{class}``.
    """

    source: str
    domains: Sequence[str]
    states: Mapping[str, Sequence[str]]
    details: Mapping[str, Sequence[str]]
    one_class: str
    classes: Mapping[str, ClassWord]
    queries: Sequence[str]
    consistency_suffix: str
    label_image_prefix: Mapping[str, str]
    format_suffix: str
    n_per_query: int
    min_per_label: int
    max_per_label: int
    descriptor_query: str

    def word(self, class_name: str, readable: Mapping[str, str] | None = None) -> ClassWord:
        """Return how a class is called: by the lists, else by ``readable``, else its name without signs and numbers.

        Args:
            class_name: Raw name.
            readable: Raw class name -> readable name, for classes that the lists do not have.
        """
        if class_name in self.classes:
            return self.classes[class_name]
        if readable and class_name in readable:
            return ClassWord(readable[class_name], True)
        plain = re.sub(r"[\d\s]+$", "", " ".join(re.sub(r"[_-]", " ", class_name).split()))
        return ClassWord(plain or class_name, True)

    def templates(self, word: ClassWord, label: Label) -> list[str]:
        """Return the template prompts of a class: domain by domain, then state by state, then detail by detail."""
        prompts = []
        for domain in self.domains:
            image = with_article(f"{domain} image" if domain else "image")
            for state in self.states[label]:
                thing = with_article(f"{state} {word.name}") if word.article else f"{state} {word.name}"
                for details in self.details[label]:
                    prompts.append(
                        f"{image[0].upper()}{image[1:]} of {thing}" + (f" with {details}" if details else "")
                    )
        return prompts

    def label_queries(self, word: ClassWord, label: Label, consistent: bool) -> list[str]:
        """Return the questions for one label, with the suffix on consistency (if asked for) and the one on format."""
        values = {
            "article_label": with_article(label) if word.article else label,
            "class": word.name,
            "label_image_prefix": self.label_image_prefix[label],
            "n": str(self.n_per_query),
        }
        suffixes = [*([self.consistency_suffix] if consistent else []), self.format_suffix]
        return [fill(" ".join([query, *suffixes]), values) for query in self.queries]


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return text with each ``{key}`` of ``values`` replaced; other braces stay (a class name may hold some)."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)


def parse_alfa_prompts(data: Any, origin: str) -> AlfaPrompts:
    """Return the word lists that a parsed YAML document holds.

    Raises:
        ValueError: If a part is missing; the message names the origin and the part.
    """
    try:
        template, llm = data["template"], data["llm"]
        return AlfaPrompts(
            source=data["source"],
            domains=template["domains"],
            states={label: template[label]["states"] for label in LABELS},
            details={label: template[label]["details"] for label in LABELS},
            one_class=data["one_class"]["normal"],
            classes={name: ClassWord(entry["name"], entry["article"]) for name, entry in data["classes"].items()},
            queries=llm["queries"],
            consistency_suffix=llm["consistency_suffix"],
            label_image_prefix={label: llm["label_image_prefix"][label] for label in LABELS},
            format_suffix=llm["format_suffix"],
            n_per_query=int(llm["n_per_query"]),
            min_per_label=int(llm["min_per_label"]),
            max_per_label=int(llm["max_per_label"]),
            descriptor_query="\n".join(llm["descriptor_query"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"Prompt file {origin} does not have the form of the packaged alfa.yaml: {type(error).__name__} {error}."
        ) from error


@cache
def load_alfa_prompts(name: str = "alfa") -> AlfaPrompts:
    """Return the packaged word lists (``"alfa"``), or those of a YAML file of the same form.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not have that form.
    """
    path = files("zsad.prompts") / "alfa.yaml" if name == "alfa" else Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"No word lists '{name}' for ALFA: use 'alfa', or give the path of a YAML file of its form."
        )
    return parse_alfa_prompts(read_yaml(path.read_text(encoding="utf-8"), f"Prompt file '{name}'"), name)


class ClassPrompts(NamedTuple):
    """The prompts of one class."""

    normal: list[str]
    """Templates first, then the language model's sentences."""
    abnormal: list[str]
    """Alike."""


class PromptWriter:
    """Writes the prompts and the descriptors of a class; asks the language model at most once per class and run.

    Args:
        lists: The word lists.
        llm: The language model.
        cache: Where live back-ends' answers are kept; the packaged answers need none.
        count_tokens: Number of CLIP tokens of a text, start and end counted.
        context: Greatest such number; longer sentences are left out, never cut.
        templates: Whether to write templates.
        sentences: Whether to ask the language model.
        consistent: Ask for, and accept only, sentences that begin with "A normal image of", "An abnormal image of".
        seed: Of the first round of questions; the next ones count up.
        min_per_label: In place of the word lists' number.
        max_per_label: In place of the word lists' number.
    """

    def __init__(
        self,
        lists: AlfaPrompts,
        llm: LLM,
        cache: AnswerCache,
        count_tokens: Callable[[str], int],
        context: int = 77,
        templates: bool = True,
        sentences: bool = True,
        consistent: bool = True,
        seed: int = 0,
        min_per_label: int | None = None,
        max_per_label: int | None = None,
    ) -> None:
        self.lists = lists
        self.llm = llm
        self.cache = cache
        self.count_tokens = count_tokens
        self.context = context
        self.templates = templates
        self.sentences = sentences
        self.consistent = consistent
        self.seed = seed
        self.least = lists.min_per_label if min_per_label is None else min_per_label
        self.most = lists.max_per_label if max_per_label is None else max_per_label
        if not 1 <= self.least <= self.most:
            raise ValueError(
                f"min_per_label must be at least 1 and at most max_per_label, got {self.least} and {self.most}."
            )
        self.readable: dict[str, str] = {}
        """Raw class name -> readable name, for classes that the word lists do not have."""
        self.stand_ins: set[tuple[str, str]] = set()
        """(class, label) for which packaged answers had to replace unusable ones."""
        self._written: dict[tuple[str, ClassWord], ClassPrompts] = {}
        self._described: dict[tuple[str, ClassWord], list[str]] = {}

    def word(self, class_name: str) -> ClassWord:
        """Return how a class is called."""
        return self.lists.word(class_name, self.readable)

    def one_class(self, class_name: str) -> str:
        """Return the single normal prompt of a class (paper, table 2, first row)."""
        return fill(self.lists.one_class, {"article_class": self.word(class_name).phrase})

    def write(self, class_name: str) -> ClassPrompts:
        """Return the prompts of a class.

        Raises:
            LLMError: If the language model does not answer.
            OfflineError: If the cache is offline and lacks an answer.
        """
        key = (class_name, self.word(class_name))
        if key not in self._written:
            self._written[key] = ClassPrompts(*(self._side(class_name, label) for label in LABELS))
        return self._written[key]

    def describe(self, class_name: str) -> list[str]:
        """Return short descriptors of what may be wrong with a class ("cracked glass"); errors as :meth:`write`."""
        key = (class_name, self.word(class_name))
        if key not in self._described:
            query = fill(self.lists.descriptor_query, {"class": key[1].name})
            usable = lambda line: not line.endswith(":")  # noqa: E731
            self._described[key] = self._ask(class_name, DESCRIPTORS, [query], usable, (), least=1)
        return self._described[key]

    def written(self) -> dict[str, ClassPrompts]:
        """Return the prompts of all classes so far."""
        return {name: prompts for (name, _), prompts in self._written.items()}

    def _side(self, class_name: str, label: Label) -> list[str]:
        word = self.word(class_name)
        templates = self.lists.templates(word, label) if self.templates else []
        if not self.sentences:
            return templates
        queries = self.lists.label_queries(word, label, self.consistent)
        usable = lambda line: is_description(line, label, self.consistent)  # noqa: E731
        return templates + self._ask(class_name, label, queries, usable, templates, self.least)[: self.most]

    def _ask(
        self,
        class_name: str,
        label: str,
        queries: Sequence[str],
        usable: Callable[[str], bool],
        taken: Iterable[str],
        least: int,
    ) -> list[str]:
        """Return new lines that are usable; asks again while there are fewer than ``least``, up to ``ROUNDS`` times."""
        found: dict[str, str] = {}
        known = {same_text(text) for text in taken}
        article_class = {"article_class": self.word(class_name).phrase}
        too_long: set[str] = set()

        def collect(texts: Iterable[str]) -> None:
            for line in (line for text in texts for line in parse_answer(fill(text, article_class), label)):
                if not usable(line) or (key := same_text(line)) in known or key in found:
                    continue
                if self._too_long(line):
                    too_long.add(line)
                else:
                    found[key] = line

        packaged = isinstance(self.llm, PackagedLLM)
        waiting: list[tuple[dict[str, Any], list[str]]] = []  # not stored before something usable has come
        for seed in range(self.seed, self.seed + (1 if packaged else ROUNDS)):
            for query in queries:
                request = self.cache.request(self.llm, query, 1, seed)
                texts = None if packaged else self.cache.read(request)
                if texts is None:
                    texts = self.llm.complete(query, class_name=class_name, label=label, n=1, seed=seed)
                    waiting += [] if packaged else [(request, texts)]
                collect(texts)
                if found:
                    for entry in waiting:
                        self.cache.write(*entry)
                    waiting.clear()
            if len(found) >= least:
                break
        what = f"'{self.llm.name}', class '{class_name}', {label}"
        if too_long:
            self._warn(f"{what}: {len(too_long)} sentence(s) of more than {self.context} CLIP tokens were left out.")
        if not found:
            self._warn(
                f"{what}: no usable answer in {ROUNDS} rounds; the packaged, hand-written answers take its place."
            )
            self.stand_ins.add((class_name, label))
            collect(PackagedLLM().complete("", class_name=class_name, label=label))
        elif len(found) < least:
            self._warn(f"{what}: only {len(found)} usable answers, {least} were asked for.")
        return list(found.values())

    def _too_long(self, line: str) -> bool:
        # a word is at least one token; the tokenizer itself takes quadratic time on endless words
        return len(line.split()) > self.context or len(line) > 5000 or self.count_tokens(line) > self.context

    @staticmethod
    def _warn(text: str) -> None:
        warnings.warn(text, LLMWarning, stacklevel=4)
