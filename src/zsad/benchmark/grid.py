"""What a benchmark run consists of: methods, data sets and cells, as users write them on a command line."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zsad.datamodules import BenchmarkDataModule, Joined, get_datamodule
from zsad.methods import Method, get_method
from zsad.methods.restoring import constructor_options
from zsad.prompts.yaml_text import read_yaml
from zsad.weights.files import write_whole

_LONGEST = 120  # bytes of a name that is kept as it is


def _split(text: str) -> tuple[str, dict[str, Any]]:
    """``Name:key=value,key=value`` -> name and options, the values read as YAML."""
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, _commas(rest)):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"'{text}': expected key=value after the colon, got '{part}'.")
        options[key.strip()] = read_yaml(value, f"'{text}'")
    return name, options


def _commas(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def _plus_signs(text: str) -> list[str]:
    """Split at plus signs that stand before a data set's name or a YAML file: a path may hold some, too."""
    parts: list[str] = []
    for piece in text.split("+"):
        if parts and not (_is_data(piece) and _is_data(parts[-1])):
            parts[-1] += f"+{piece}"
        else:
            parts.append(piece)
    return parts


def _is_data(text: str) -> bool:
    if _is_file(text):
        return True
    try:
        get_datamodule(text.partition(":")[0].partition("=")[0], by_hand=True)
    except ValueError:
        return False
    return True


_ROW = {"label", "method", "note", "options", "evaluation", "epochs"}


def _is_file(text: str) -> bool:
    """Whether a text is the path of a YAML configuration, and not an option whose value is one."""
    return text.endswith((".yaml", ".yml")) and re.match(r"[\w.\-]+(=[^:]*)?:\w+=", text) is None


def _config(path: Path, key: str) -> tuple[str, dict[str, Any]]:
    """Class name and options of a YAML file as ``zsad fit --config`` takes it."""
    content = read_yaml(path.read_text(encoding="utf-8"), f"'{path}'") or {}
    section = content.get(key, content) if isinstance(content, dict) else {}
    if not isinstance(section, dict) or "class_path" not in section:
        raise ValueError(f"'{path}' has no class_path under '{key}'.")
    path_of_class = str(section["class_path"])
    own = path_of_class.startswith("zsad.")
    return path_of_class.rpartition(".")[2] if own else path_of_class, dict(section.get("init_args") or {})


@dataclass(frozen=True)
class MethodSpec:
    """A method with options.

    Args:
        label: How tables name it: the registry name, or the configuration's file name.
        name: Registry name.
        options: Constructor arguments.
        evaluation: Further ones for the finished model, which training does not see.
        epochs: In place of every other number of epochs; 0 for a row of untrained parameters.
    """

    label: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None

    @classmethod
    def parse(cls, text: str) -> "MethodSpec":
        """Read ``anovl``, ``anovl:adapter=text,views=none`` or the path of a YAML configuration.

        Raises:
            ValueError: If it is none of these.
        """
        if _is_file(text):
            name, options = _config(Path(text), "model")
            label = Path(text).stem
        else:
            name, options = _split(text)
            label = name.lower() if not options else text
        return cls._checked(label, name, options)

    @classmethod
    def parse_all(cls, text: str) -> "list[MethodSpec]":
        """Read what :meth:`parse` reads, or a YAML file of rows, such as those of a paper's ablation table.

        Such a file has ``method`` and ``rows``, each row a ``label`` and, if need be, ``options``, ``evaluation`` and
        ``epochs``, as in this class, a ``note``, and a ``method`` of its own.

        Raises:
            ValueError: If it is none of these, or a row has a key that is not known.
        """
        if not _is_file(text):
            return [cls.parse(text)]
        content = read_yaml(Path(text).read_text(encoding="utf-8"), f"'{text}'")
        if not isinstance(content, dict) or "rows" not in content:
            return [cls.parse(text)]
        if not {"rows"} <= set(content) <= {"method", "rows"}:
            raise ValueError(f"'{text}' must have the keys 'method' and 'rows', it has {sorted(content)}.")
        specs = []
        for row in content["rows"]:
            name = row.get("method", content.get("method"))
            if "label" not in row or name is None or set(row) - _ROW:
                raise ValueError(
                    f"'{text}': a row has the keys {sorted(_ROW)}, always a label and, unless all rows are of one "
                    f"method, the method; got {sorted(row)}."
                )
            known = {key: row[key] for key in ("evaluation", "epochs") if key in row}
            specs.append(replace(cls._checked(row["label"], name, row.get("options", {})), **known))
            cls._checked(row["label"], name, known.get("evaluation", {}))
        return specs

    @classmethod
    def _checked(cls, label: str, name: str, options: Mapping[str, Any]) -> "MethodSpec":
        kind = get_method(name, by_hand=True)
        known = set(constructor_options(kind))
        unknown = sorted(set(options) - known)
        if unknown:
            raise ValueError(f"{kind.__name__} has no options {unknown}; it has {sorted(known)}.")
        return cls(label, _name(kind, name).lower() if _is_own(kind) else name, options)

    @property
    def training_label(self) -> str:
        """What rows have in common that differ in their evaluation only: they are trained once."""
        if not self.evaluation:
            return self.label
        return f"{self.name}:{json.dumps(dict(self.options), sort_keys=True)}" if self.options else self.name

    def identity(self) -> dict[str, Any]:
        """Return what it is, as results keep it."""
        made: dict[str, Any] = {"label": self.label, "name": self.name, "options": dict(self.options)}
        made |= {"evaluation": dict(self.evaluation)} if self.evaluation else {}
        return made | ({} if self.epochs is None else {"epochs": self.epochs})

    @property
    def kind(self) -> type[Method]:
        """The class."""
        return get_method(self.name)

    @property
    def seeded(self) -> tuple[str, ...]:
        """Options that a cell's seed sets; a method without any is run once."""
        few_shot = bool(self.options.get("shots"))
        return ("seed",) * ("seed" in constructor_options(self.kind)) + ("shot_seed",) * few_shot

    def at(self, seed: int) -> "MethodSpec":
        """Return the method with the options that a cell's seed sets."""
        return replace(self, options={**self.options, **dict.fromkeys(self.seeded, seed)})


@dataclass(frozen=True)
class DataSpec:
    """A data set with options.

    Args:
        label: How tables name it.
        name: Class name of the data module.
        options: Constructor arguments.
        parts: The data sets of a joined one, which is for training; else empty.
    """

    label: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple["DataSpec", ...] = ()

    @classmethod
    def parse(cls, text: str) -> "DataSpec":
        """Read ``Synthetic``, ``MVTecAD=data/mvtec``, ``Synthetic:split=seen,images=100`` or a YAML configuration.

        Several of them with plus signs between are one joined data set: ``MVTecAD=data/mvtec+CVCColonDB=data/colon``.

        Raises:
            ValueError: If it is none of these.
        """
        texts = _plus_signs(text)
        if len(texts) > 1:
            parts = tuple(cls.parse(part) for part in texts)
            return cls("+".join(part.label for part in parts), Joined.__name__, {}, parts)
        if _is_file(text):
            name, options = _config(Path(text), "data")
            return cls(Path(text).stem, _name(get_datamodule(name, by_hand=True), name), options)
        head, _, rest = text.partition(":")
        name, equals, root = head.partition("=")
        options = _split(f"{name}:{rest}")[1]
        if equals:
            options["root"] = root
        kind = get_datamodule(name, by_hand=True)
        label = kind.name or kind.__name__.lower()
        if equals and kind.name in ("", "folder"):
            label = (
                Path(root).expanduser().resolve().name or "folder"
            )  # a user's own data: the folder says more than "folder"
        return cls(label, _name(kind, name), options)

    @classmethod
    def read(cls, made: Mapping[str, Any]) -> "DataSpec":
        """Return what :meth:`identity` was taken of."""
        return cls(made["label"], made["name"], made["options"], tuple(map(cls.read, made.get("parts", ()))))

    @property
    def kind(self) -> type[BenchmarkDataModule]:
        """The class."""
        return Joined if self.parts else get_datamodule(self.name)

    def identity(self) -> dict[str, Any]:
        """Return what it is, as results keep it."""
        made: dict[str, Any] = {"label": self.label, "name": self.name, "options": dict(self.options)}
        return made | ({"parts": [part.identity() for part in self.parts]} if self.parts else {})

    def build(self, **more: Any) -> BenchmarkDataModule:
        """Return the data module."""
        if self.parts:
            return Joined([part.build() for part in self.parts], **{**self.options, **more})
        return self.kind(**{**self.options, **more})


@dataclass(frozen=True)
class Cell:
    """One number of a table before the mean: a method on a class of a data set with a seed."""

    method: MethodSpec
    data: DataSpec
    class_name: str
    seed: int

    def path(self, out: Path) -> Path:
        """Where its result goes."""
        return (
            out
            / "cells"
            / safe_name(self.method.label)
            / safe_name(self.data.label)
            / f"{safe_name(self.class_name)}-s{self.seed}.json"
        )

    def log_path(self, out: Path) -> Path:
        """Where its log goes."""
        return (out / "logs" / self.path(out).relative_to(out / "cells")).with_suffix(".log")

    def picture_path(self, out: Path) -> Path:
        """Where its pictures go, without what tells them apart."""
        return (out / "pictures" / self.path(out).relative_to(out / "cells")).with_suffix("")


def _is_own(kind: type[Any]) -> bool:
    return kind.__module__.startswith("zsad.")


def _name(kind: type[Any], given: str) -> str:
    """How a class is found again: by its name if it is the library's, else as it was given."""
    return kind.__name__ if _is_own(kind) else given


def safe_name(text: str) -> str:
    """A file name that is readable and, where characters had to go, still unique."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)
    # '.' and '..' are no names, and file systems end names at 255 bytes, of which endings need some
    if name == text and name.strip(".") and len(name.encode()) <= _LONGEST:
        return name
    short = name.encode()[:60].decode(errors="ignore").lstrip(".") or "_"
    return f"{short}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file so that a kill at any moment leaves the old file or the whole new one."""
    write_whole(path, json.dumps(content, indent=1, sort_keys=True).encode())
