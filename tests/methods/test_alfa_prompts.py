"""ALFA's word lists: templates, class names, questions, packaged answers."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import open_clip
import pytest
import yaml

from zsad.llm import AnswerCache, PackagedLLM
from zsad.methods.alfa.prompts import LABELS, ClassWord, PromptWriter, load_alfa_prompts, parse_alfa_prompts

LISTS = load_alfa_prompts()
PACKAGED = json.loads((files("zsad.llm") / "alfa_answers.json").read_text(encoding="utf-8"))["entries"]
TOKENIZER = open_clip.SimpleTokenizer()


def tokens(text: str) -> int:
    return len(TOKENIZER.encode(text)) + 2


def make_writer() -> PromptWriter:
    return PromptWriter(LISTS, PackagedLLM(), AnswerCache("unused"), tokens)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("name", [*LISTS.classes, "unknown_part"])
def test_72_distinct_templates_per_label(name: str, label: str) -> None:
    prompts = LISTS.templates(LISTS.word(name), label)  # type: ignore[arg-type]
    assert len(set(prompts)) == len(prompts) == 72


def test_templates_in_the_order_of_the_specification() -> None:
    assert LISTS.templates(LISTS.word("bottle"), "abnormal")[:4] == [
        "An image of an abnormal bottle",
        "An image of an abnormal bottle with visible defects",
        "An image of an abnormal bottle with a damaged or contaminated area",
        "An image of a damaged bottle",
    ]
    assert LISTS.templates(LISTS.word("bottle"), "normal")[12:14] == [
        "An industrial image of a normal bottle",
        "An industrial image of a normal bottle with no visible defects",
    ]
    assert LISTS.templates(LISTS.word("leather"), "normal")[-1] == (
        "A textural image of unblemished leather with an intact and uniform appearance"
    )
    assert LISTS.templates(LISTS.word("bottle"), "normal")[9] == "An image of an unblemished bottle"


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ("grid", ClassWord("metal grid", True)),
        ("macaroni2", ClassWord("macaroni", False)),
        ("metal_plate", ClassWord("metal plate", True)),
        ("pipe-fitting_12", ClassWord("pipe fitting", True)),
        ("part 3 b 7", ClassWord("part 3 b", True)),
        ("01", ClassWord("01", True)),
        ("_", ClassWord("_", True)),
        ("{0}", ClassWord("{0}", True)),
    ],
)
def test_class_names(raw: str, word: ClassWord) -> None:
    assert LISTS.word(raw) == word


def test_readable_names_serve_classes_that_the_lists_lack() -> None:
    readable = {"01": "product 01", "grid": "net"}
    assert LISTS.word("01", readable) == ClassWord("product 01", True)
    assert LISTS.word("grid", readable).name == "metal grid"


@pytest.mark.parametrize(
    "entry", [entry for entry in PACKAGED if entry["class"] != "*"], ids=lambda e: f"{e['class']}-{e['label']}"
)
def test_questions_are_those_of_the_packaged_answers(entry: dict[str, str]) -> None:
    word = LISTS.word(entry["class"])
    if entry["kind"] == "descriptors":
        assert LISTS.descriptor_query.replace("{class}", word.name) == entry["query"]
    else:
        (query,) = LISTS.label_queries(word, entry["label"], consistent=True)  # type: ignore[arg-type]
        assert (
            query == f"{entry['query']} Give 40 different one-sentence descriptions, one per line, without numbering."
        )
        (free,) = LISTS.label_queries(word, entry["label"], consistent=False)  # type: ignore[arg-type]
        assert "State the description" not in free


@pytest.mark.parametrize("name", [*LISTS.classes, "hourglass", "apple_2"])
def test_packaged_prompts_are_short_and_begin_alike(name: str) -> None:
    prompts = make_writer().write(name)
    assert all(len(side) >= 88 for side in prompts)
    assert all(len({text.casefold() for text in side}) == len(side) for side in prompts)
    assert max(tokens(text) for side in prompts for text in side[72:]) <= 23
    assert all(text.startswith("A normal image of ") for text in prompts.normal[72:])
    assert all(text.startswith("An abnormal image of ") for text in prompts.abnormal[72:])
    assert "{" not in "".join([*prompts.normal, *prompts.abnormal, *make_writer().describe(name)])


def test_generic_answers_use_the_article() -> None:
    assert make_writer().write("apple_2").abnormal[72] == "An abnormal image of an apple with a visible defect."
    assert make_writer().one_class("leather") == "A normal image of leather"
    assert make_writer().one_class("bottle") == "A normal image of a bottle"


def test_braces_in_a_class_name_are_only_text() -> None:
    prompts = make_writer().write("{class} {n}")
    assert prompts.normal[0] == "An image of a normal {class} {n}"
    assert "{class} {n}" in LISTS.label_queries(LISTS.word("{class} {n}"), "normal", consistent=True)[0]


def test_own_lists(tmp_path: Path) -> None:
    data = yaml.safe_load((files("zsad.prompts") / "alfa.yaml").read_text(encoding="utf-8"))
    data["llm"]["queries"].append("What does {article_label} {class} look like?")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    assert len(load_alfa_prompts(str(path)).label_queries(LISTS.word("bottle"), "normal", consistent=True)) == 2
    del data["llm"]["format_suffix"]
    with pytest.raises(ValueError, match=r"Prompt file mine\.yaml.*'format_suffix'"):
        parse_alfa_prompts(data, "mine.yaml")
    with pytest.raises(ValueError, match="does not have the form"):
        parse_alfa_prompts(["list"], "list.yaml")
    with pytest.raises(FileNotFoundError, match="No word lists 'nowhere'"):
        load_alfa_prompts("nowhere")


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="min_per_label must be at least 1"):
        PromptWriter(LISTS, PackagedLLM(), AnswerCache("unused"), tokens, min_per_label=20, max_per_label=10)
