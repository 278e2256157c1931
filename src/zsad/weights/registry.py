"""The table of published adapters: names, files, what they learned from, and which of them a bare name means."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from zsad.weights.expected import Expected, Found, measure

TABLE = Path(__file__).with_name("published.yaml")
"""The table that is read."""

Status = Literal["ready", "reader", "manual", "none", "other"]
Commercial = Literal["yes", "no", "ask"]
_PERMISSIVE = ("MIT", "Apache", "BSD", "CC0", "CC BY 4.0")


class UnknownAdaptersError(ValueError):
    """There are no adapters of that name."""


class NotPublishedError(ValueError):
    """No adapters of that method are published, or none that zsad can read."""


@dataclass(frozen=True)
class SourceFile:
    """One published file.

    Args:
        kind: ``"github_raw"``, ``"github_lfs"``, ``"hub"``, ``"hub_space"``, ``"drive"`` or ``"drive_folder"``.
        url: Address of the content; of a page for people where programs cannot fetch it.
        repository: Owner and name, empty for drives.
        commit: What the address is pinned to; None is the newest, which the hash then decides.
        path: Of the file in the repository.
        expected: Its size and hashes as far as they are known.
    """

    kind: str
    url: str
    repository: str
    commit: str | None
    path: str
    expected: Expected


@dataclass(frozen=True)
class DataTerms:
    """A data set that adapters learned from.

    Args:
        key: zsad's key.
        title: Name in prose.
        licence: Its terms.
        commercial: Whether they permit commercial use.
    """

    key: str
    title: str
    licence: str
    commercial: Commercial


@dataclass(frozen=True)
class WeightsEntry:
    """One row of the table: the learned part of a method that somebody published.

    Args:
        name: ``method/trained_on``, for example ``"anomalyclip/visa"``.
        method: Name of the method's class.
        status: ``"ready"``: pinned, and zsad reads it. ``"reader"``: pinned, but zsad cannot read it yet.
            ``"manual"``: a person has to fetch it. ``"none"``: nothing is published. ``"other"``: of a method that zsad
            does not have.
        backbone: The only backbone that it fits.
        options: Arguments of the method's class that go with it.
        data: The data sets that it learned from.
        split: Which part of them.
        epochs: How long, None if unknown.
        files: What to fetch; several for some methods.
        layout: Name of the reader.
        code_licence: Of the authors' code.
        weights_licence: Of the files.
        commercial: Whether the terms of data and files permit commercial use; ``"ask"`` where they do not say.
        note: What is said about it.
    """

    name: str
    method: str
    status: Status
    backbone: str | None
    options: Mapping[str, Any]
    data: tuple[DataTerms, ...]
    split: str
    epochs: int | None
    files: tuple[SourceFile, ...]
    layout: str
    code_licence: str
    weights_licence: str
    commercial: Commercial
    note: str

    @property
    def key(self) -> str:
        """The method's part of the name."""
        return self.name.partition("/")[0]

    @property
    def variant(self) -> str:
        """The name without the method's part."""
        return self.name.partition("/")[2]

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Keys of the data sets that it learned from."""
        return tuple(one.key for one in self.data)

    @property
    def data_licence(self) -> str:
        """Terms of the data sets, as a phrase."""
        return ", ".join(dict.fromkeys(one.licence for one in self.data))

    @property
    def training(self) -> list[dict[str, Any]]:
        """What the adapters learned from, as a model's ``trained_on``."""
        shared: dict[str, Any] = {"split": self.split} if self.split else {}
        shared |= {"epochs": self.epochs} if self.epochs is not None else {}
        return [
            {"name": one.key, "adapters": self.name, **shared, "licence": one.licence, "commercial": one.commercial}
            for one in self.data
        ]


def list_weights(method: str | None = None) -> list[WeightsEntry]:
    """Return the published adapters, all or those of one method.

    Args:
        method: Name of a method; case does not matter.

    Raises:
        UnknownAdaptersError: The table has no such method.
    """
    entries = list(table().values())
    if method is None:
        return entries
    chosen = [one for one in entries if method.lower() in (one.key, one.method.lower())]
    if not chosen:
        known = ", ".join(dict.fromkeys(one.key for one in entries))
        raise UnknownAdaptersError(f"The table of adapters has no method '{method}'. There are: {known}.")
    return chosen


def find(name: str) -> WeightsEntry:
    """Return the adapters of that name.

    Raises:
        UnknownAdaptersError: There are none; the message lists those of the method, or all.
        NotPublishedError: Their authors published nothing.
    """
    entries = table()
    entry = entries.get(name.lower())
    if entry is not None and entry.status != "none":
        return entry
    key = name.lower().partition("/")[0]
    if key in entries and entries[key].status == "none":
        raise NotPublishedError(f"No adapters of {entries[key].method} are published: {entries[key].note}.")
    usable = [one for one in entries.values() if one.status not in ("none", "other")]
    near = [one.name for one in usable if one.key == key] or [one.name for one in usable]
    raise UnknownAdaptersError(f"No adapters '{name}'. There are: {', '.join(sorted(near))} ('zsad weights list').")


def named(method: str, checkpoint: str) -> WeightsEntry | None:
    """Return the adapters that ``checkpoint`` names for a method, None if it is the path of a file or no name at all.

    Args:
        method: The method's key, for example ``"anomalyclip"``.
        checkpoint: ``"visa"`` or ``"anomalyclip/visa"``; a file of that name has precedence.

    Raises:
        UnknownAdaptersError: It looks like a name, but there are no such adapters.
    """
    if os.path.exists(checkpoint):
        return None
    entries = table()
    for name in (checkpoint.lower(), f"{method}/{checkpoint.lower()}"):
        if name in entries and entries[name].status != "none":
            return entries[name]
    looks_like_a_name = checkpoint.lower().startswith(f"{method}/") or not ("/" in checkpoint or "." in checkpoint)
    if (
        looks_like_a_name
        and "\\" not in checkpoint
        and any(one.key == method and one.files for one in entries.values())
    ):
        return find(checkpoint if "/" in checkpoint else f"{method}/{checkpoint}")
    return None


def default_for(method: str, target: str | None = None) -> WeightsEntry | None:
    """Return what a bare method name means, None if no adapters of that method can be had.

    For images of the user the VisA-trained ones come first: VisA's terms let a company use them, and MVTec AD is what
    people try first. For a benchmark it is the papers' pair; never adapters that learned from the target.

    Args:
        method: The method's key.
        target: Key of the data set to be tested on; None for a user's images.
    """
    chosen = [one for one in table().values() if one.key == method and one.status == "ready"]
    rules = _rules()
    if target is None:
        order: Sequence[str] = rules["images"]
    else:
        first = rules["benchmark"].get(target, rules["benchmark"]["*"])
        order = [first, *(one for one in rules["images"] if one != first)]
        chosen = [one for one in chosen if target not in one.trained_on]
    ranked = sorted(chosen, key=lambda one: len(one.trained_on))  # what learned from fewer sets first
    for wanted in order:
        for entry in ranked:
            if wanted in entry.trained_on:
                return entry
    return ranked[0] if ranked else None


def identify(path: Path) -> tuple[WeightsEntry, SourceFile] | None:
    """Return whose published file this is, by its hash, None if the table does not know it."""
    return known(measure(path))


def known(found: Found) -> tuple[WeightsEntry, SourceFile] | None:
    """Return whose published file has these hashes, None if the table does not know them."""
    for entry in table().values():
        for file in entry.files:
            if file.expected and file.expected.difference(found) is None:
                return entry, file
    return None


def data_terms(key: str) -> DataTerms:
    """Return what is known about the terms of a data set."""
    terms = _content(TABLE)["data_terms"]
    return DataTerms(**{"key": key, "title": key or "unknown data", **terms.get(key, terms["unknown"])})


def table() -> dict[str, WeightsEntry]:
    """Return name -> adapters, in the order of the table."""
    return _table(TABLE, os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/"))


@cache
def _content(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def _rules() -> dict[str, Any]:
    rules: dict[str, Any] = _content(TABLE)["defaults"]
    return rules


@cache
def _table(path: Path, endpoint: str) -> dict[str, WeightsEntry]:
    content = _content(path)
    forms = {kind: form.replace("{endpoint}", endpoint) for kind, form in content["url_forms"].items()}
    return {name: _entry(name, row, forms) for name, row in content["adapters"].items()}


def _entry(name: str, row: dict[str, Any], forms: Mapping[str, str]) -> WeightsEntry:
    training = row.get("trained_on", {})
    sets = tuple(training.get("names", [training["name"]] if "name" in training else []))
    data = tuple(map(data_terms, sets))
    licence = row.get("licence", {})
    return WeightsEntry(
        name=name,
        method=row["method"],
        status=row["status"],
        backbone=row.get("backbone"),
        options=row.get("options", {}),
        data=data,
        split=training.get("split", ""),
        epochs=training.get("epochs"),
        files=_files(row, forms),
        layout=row.get("layout", ""),
        code_licence=licence.get("code", "not stated"),
        weights_licence=licence.get("weights", "not stated"),
        commercial=row.get("commercial", _commercial([one.commercial for one in data], licence)),
        note=row.get("note", row.get("trap", "")),
    )


def _commercial(data: Sequence[str], licence: Mapping[str, str]) -> Commercial:
    if "no" in data:
        return "no"
    permissive = licence.get("code", "").startswith(_PERMISSIVE)
    return "yes" if data and set(data) == {"yes"} and permissive else "ask"


def _files(row: dict[str, Any], forms: Mapping[str, str]) -> tuple[SourceFile, ...]:
    source = row.get("source")
    if source is None:
        return ()
    kind = source["kind"]
    if kind in ("drive", "drive_folder"):
        page = (
            "https://drive.google.com/file/d/{}/view"
            if kind == "drive"
            else "https://drive.google.com/drive/folders/{}"
        )
        return (SourceFile(kind, page.format(source["drive_id"]), "", None, source["file"], _expected(row, 0)),)
    paths = source["path"] if isinstance(source["path"], list) else [source["path"]]
    files = []
    for number, path in enumerate(paths):
        place = {"repository": source["repository"], "commit": source["commit"] or "main", "path": path}
        url = forms[kind].format(**place)
        files.append(SourceFile(kind, url, source["repository"], source["commit"], path, _expected(row, number)))
    return tuple(files)


def _expected(row: dict[str, Any], number: int) -> Expected:
    def one(name: str) -> Any:
        value = row.get(name)
        return value[number] if isinstance(value, list) else value

    return Expected(one("sha256"), one("git_blob"), one("size"))
