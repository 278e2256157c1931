"""The parser of language models' answers."""

from __future__ import annotations

import json

import pytest

from zsad.methods.alfa.answers import is_description, parse_answer, same_text

LINES = [
    "An abnormal image of a bottle with a crack.",
    "An abnormal image of a bottle with a 1.5 mm hole.",
    'An abnormal image of a bottle with a "dirty" rim',
]
OTHER = ["A normal image of a bottle."]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(LINES),
        "\n\n".join(f"  {line}  " for line in LINES),
        "\r\n".join(f"- {line}" for line in LINES),
        "\n".join(f"* {line}" for line in LINES),
        "\n".join(f"\u2022 {line}" for line in LINES),
        "\n".join(f"{number}. {line}" for number, line in enumerate(LINES, 1)),
        "\n".join(f"{number}) {line}" for number, line in enumerate(LINES, 8)),
        "\n".join(f"- {number}. \u201c{line}\u201d" for number, line in enumerate(LINES, 1)),
        "\n".join(f"**{line}**" for line in LINES),
        "\n".join(line.replace(" image ", "  image\t") for line in LINES),
        "```\n" + "\n".join(LINES) + "\n```",
        json.dumps(LINES),
        json.dumps(LINES, indent=2),
        "```json\n" + json.dumps(LINES, indent=2) + "\n```",
        "Sure, here they are:\n" + json.dumps(LINES),
        json.dumps({"normal": OTHER, "abnormal": LINES}),
        "Of course!\n```json\n" + json.dumps({"Abnormal": LINES, "normal": OTHER}, indent=1) + "\n```\nAnything else?",
        json.dumps({"abnormal": "\n".join(LINES)}),
        json.dumps([*LINES, "An abnormal image of a bottle that never ends"])[:-20],  # cut in the middle of a text
        json.dumps([*LINES, "An abnormal image of a bottle that never ends"], indent=2)[:-20],
        json.dumps({"normal": OTHER, "abnormal": [*LINES, "An abnormal image of"]})[:-5],
        "1. \u201cAn abnormal image of a bottle with a crack.\u201d\n"
        + json.dumps(LINES[1:])[1:-1].replace('", "', '",\n"'),
    ],
)
def test_every_form_gives_the_same_lines(text: str) -> None:
    found = [line for line in parse_answer(text, "abnormal") if is_description(line, "abnormal", consistent=True)]
    assert [line.replace("\\", "") for line in found] == LINES


def test_consistency_asks_for_the_label() -> None:
    assert is_description("an ABNORMAL image of x", "abnormal", consistent=True)
    assert not is_description("A normal image of x", "abnormal", consistent=True)
    assert not is_description("Image of an abnormal x", "abnormal", consistent=True)
    assert not is_description("An abnormal image often shows", "abnormal", consistent=True)


def test_free_form_drops_short_lines_and_headings() -> None:
    text = "Here are the descriptions you asked for:\nCracks\nA crack runs along the rim\n\n---\n"
    kept = [line for line in parse_answer(text, "abnormal") if is_description(line, "abnormal", consistent=False)]
    assert kept == ["A crack runs along the rim"]


def test_descriptors_in_a_dash_list() -> None:
    assert parse_answer("- cracked glass\n-chipped rim\n- 3.5 mm hole\n-\n", "descriptors") == [
        "cracked glass",
        "chipped rim",
        "3.5 mm hole",
    ]


@pytest.mark.parametrize(
    "text", ["", "\n\n", "```", "[", "{", "[[[[", '{"abnormal": [', "[" * 50_000, "\ud800", "[1, 2]", "{}"]
)
def test_nonsense_gives_no_description(text: str) -> None:
    assert not [line for line in parse_answer(text, "abnormal") if is_description(line, "abnormal", consistent=True)]


def test_duplicates_are_told_by_case_and_final_punctuation() -> None:
    assert same_text("A Crack.") == same_text("a crack") == same_text("A crack ;")
    assert same_text("a crack") != same_text("a crack in it")
