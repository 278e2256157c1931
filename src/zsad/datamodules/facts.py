"""What is known about each benchmark: classes, counts, metrics, licence, source and how far to trust it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

Counts = dict[str, tuple[int, int]]
"""Class name -> (normal, anomalous) images; the key ``"*"`` stands for the whole data set."""


@dataclass(frozen=True)
class Download:
    """A direct official link.

    Args:
        url: Where the archive is.
        sha256: Its checksum, in hexadecimal.
        max_unpacked_gb: More than this many gigabytes (10^9 bytes) of content is taken for an attack.
    """

    url: str
    sha256: str
    max_unpacked_gb: float


@dataclass(frozen=True)
class Facts:
    """One entry of ``datasets.yaml``; the tags of trust are explained at the top of that file.

    Args:
        key: Short name, e.g. ``"mvtec_ad"``.
        title: Name in prose.
        datamodule: Name of the class that reads it.
        domain: ``"industrial"`` or ``"medical"``.
        classes: Raw class names.
        readable: Raw class name -> a suggestion for prompts.
        counts: (normal, anomalous) per class where known, and of the whole data set under ``"*"``.
        counts_status: Where the counts come from.
        alternative_counts: Name of another way to cut or select the data -> its counts and a note.
        metrics: What the papers report, or for a data set that none of them uses, what its labels permit.
        layout: Expected folders and files.
        license: Terms of use.
        home: Official page; None where there is none.
        size: Size of the download; None where unknown.
        obtain: How to get it.
        archive: Name of the official archive; None where there is none or several.
        sha256: Checksum of ``archive``; None where unknown.
        download: The direct link that may be used; None if there is none.
        trust: Fact -> tags.
        has_masks: Whether the data set marks where its defects are.
    """

    key: str
    title: str
    datamodule: str
    domain: str
    classes: tuple[str, ...]
    readable: Mapping[str, str]
    counts: Counts
    counts_status: str
    alternative_counts: Mapping[str, Mapping[str, Any]]
    metrics: tuple[str, ...]
    layout: str
    license: str
    home: str | None
    size: str | None
    obtain: str
    archive: str | None
    sha256: str | None
    download: Download | None
    trust: Mapping[str, str]
    has_masks: bool


@cache
def all_facts() -> dict[str, Facts]:
    """Return key -> facts of every known benchmark, in the order of the papers' tables."""
    text = resources.files(__package__).joinpath("datasets.yaml").read_text(encoding="utf-8")
    return {entry["key"]: _parse(entry) for entry in yaml.safe_load(text)["datasets"]}


def _parse(entry: dict[str, Any]) -> Facts:
    classes = entry["classes"]
    counts: Counts = {one["name"]: (one["normal"], one["anomalous"]) for one in classes if "normal" in one}
    if entry["counts"] is not None:
        counts["*"] = (entry["counts"][0], entry["counts"][1])
    same = ("key", "title", "datamodule", "domain", "counts_status", "layout", "license", "home", "size", "obtain")
    return Facts(
        **{name: entry[name] for name in same},
        classes=tuple(one["name"] for one in classes),
        readable={one["name"]: one["readable"] for one in classes},
        counts=counts,
        alternative_counts=entry.get("alternative_counts", {}),
        metrics=tuple(entry["metrics"]),
        archive=entry.get("archive"),
        sha256=entry.get("sha256"),
        download=Download(**entry["download"]) if "download" in entry else None,
        trust=entry["trust"],
        has_masks=entry["mask"] is not None,
    )
