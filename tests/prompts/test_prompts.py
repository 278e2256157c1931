"""Word lists: numbers, hashes and the rules of the file format."""

from __future__ import annotations

import hashlib
from pathlib import Path

import open_clip
import pytest

from zsad.prompts import list_prompts, load_prompts, parse_prompts

MINIMAL = {"source": "test", "states": {"normal": ["good {}"], "anomalous": ["bad {}"]}, "templates": ["a {}."]}


@pytest.mark.parametrize(
    ("name", "normal", "anomalous"),
    [
        ("clip", 1, 1),
        ("clip_ac", 7, 7),
        ("winclip", 147, 84),
        ("winclip_22", 154, 88),
        ("vand", 245, 175),
        ("anovl", 462, 462),
        ("adaclip", 28, 20),
    ],
)
def test_number_of_prompts_per_class(name: str, normal: int, anomalous: int) -> None:
    sides = load_prompts(name).compose("metal_nut")
    assert [len(side) for side in sides] == [normal, anomalous]
    assert all("metal_nut" in prompt for side in sides for prompt in side)


def test_anovl_prompts_are_the_released_ones() -> None:
    normal, abnormal = load_prompts("anovl").compose("bottle")
    hashes = [hashlib.sha256("\n".join(side).encode()).hexdigest() for side in (normal, abnormal)]
    assert hashes == [
        "d93f88b425c0727065977caedaa6362b0e1015d94f53df8bf8df45dd91f1f85b",
        "2ee228c7b30cb1cba8df6101d8410933aed96d010ffeb5cc9bfcf37fba09838e",
    ]


def test_adaclip_prompts_are_the_released_ones_and_hyphens_become_spaces() -> None:
    normal, anomalous = load_prompts("adaclip").compose("Metal_pcb-1", "hyphen_to_space")
    assert normal[:2] == ["a bad photo of a Metal_pcb 1.", "a low resolution photo of the Metal_pcb 1."]
    assert anomalous[-1] == "a cropped photo of the Metal_pcb 1 with damage."
    sides = load_prompts("adaclip").compose("bottle")
    assert [hashlib.sha256("\n".join(side).encode()).hexdigest()[:16] for side in sides] == [
        "75609eebef816113",
        "c0ab79ccf374342b",
    ]


def test_anovl_group_follows_the_raw_name_and_aliases_apply() -> None:
    prompts = load_prompts("anovl")
    assert prompts.compose("carpet")[0][-1] == "a surface picture of a carpet without damage for anomaly detection"
    assert prompts.compose("macaroni1") == prompts.compose("macaroni2")
    assert prompts.compose("bottle", domains=["generic"])[0][0] == "a cropped photo of the normal bottle"
    assert len(prompts.compose("bottle", domains=["generic"])[0]) == 154


def test_clip_ac_templates_are_open_clips() -> None:
    expected = [fill("normal nut") for fill in open_clip.SIMPLE_IMAGENET_TEMPLATES]
    assert load_prompts("clip_ac").compose("nut")[0] == expected


def test_readable_words_and_braces_in_class_names() -> None:
    prompts = load_prompts("clip")
    assert prompts.compose("metal_nut", "readable")[0] == ["a photo of a normal metal nut"]
    assert prompts.compose("{0}{x}")[1] == ["a photo of an anomalous {0}{x}"]


def test_every_packaged_list_names_its_source() -> None:
    assert {"clip", "clip_ac", "winclip", "anovl", "vand"} <= set(list_prompts())


def test_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "source: me\nstates: {normal: ['good {}'], anomalous: ['bad {}']}\ntemplates: ['a {}.']\n", encoding="utf-8"
    )
    assert load_prompts(str(path)).compose("x") == (["a good x."], ["a bad x."])


def test_missing_list_names_the_packaged_ones() -> None:
    with pytest.raises(FileNotFoundError, match=r"No prompt list 'none': packaged are .*winclip"):
        load_prompts("none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "needs the keys"),
        ({"templates": ["no slot"]}, "exactly one"),
        ({"templates": []}, "non-empty"),
        ({"states": {"normal": ["{}"]}}, "non-empty"),
        ({"groups": {"object": ["nowhere"]}}, r"unknown domains \['nowhere'\]"),
    ],
)
def test_malformed_files_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=rf"Prompt file mine.yaml: .*{message}"):
        parse_prompts({**MINIMAL, **change}, "mine.yaml")
