"""What decides a cell's numbers, so that a result made from something else is never taken for it."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zsad import __version__
from zsad.benchmark.grid import Cell, DataSpec, MethodSpec
from zsad.datamodules import Record
from zsad.inference.files import sha256

_SHOWN = 5  # differences in a message


class StaleCellError(ValueError):
    """A result is there already, and it was made from something else."""


def digest(content: Any) -> str:
    """Return the SHA-256 of plain values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@dataclass
class Identities:
    """Identities of the cells of a run; what data sets hold is looked at once.

    Args:
        run: The options of the run that decide numbers, by name.
        train: Auxiliary data, in order of preference.
    """

    run: Mapping[str, Any]
    train: Sequence[DataSpec] = ()
    _files: dict[str, dict[str, str]] = field(default_factory=dict)

    def of(self, cell: Cell) -> dict[str, Any]:
        """Return all that decides a cell: method, data with a digest of its file list, seed, run and version."""
        learns = cell.method.kind.learns()
        return {
            "method": _method(cell.method.at(cell.seed)),
            "data": self._data(cell.data, cell.class_name),
            "class": cell.class_name,
            "seed": cell.seed,
            "run": {name: _value(value) for name, value in self.run.items() if learns or name != "epochs"},
            "train": [self._data(one) for one in self.train] if learns else [],
            "version": __version__,
        }

    def training(self, method: MethodSpec, source: DataSpec) -> str:
        """Return a digest of all that decides the parameters of a trained method."""
        names = ("backbone", "epochs")
        run = {name: _value(self.run.get(name)) for name in names}
        learned = replace(method, evaluation={})  # rows that differ in it share their parameters
        return digest({"method": _method(learned), "source": self._data(source), "run": run, "version": __version__})

    def _data(self, data: DataSpec, class_name: str | None = None) -> dict[str, Any]:
        if data.parts:
            return {"parts": [self._data(part) for part in data.parts]}
        options = {name: _value(value) for name, value in data.options.items() if name != "root"}
        root = data.options.get("root")
        return {
            "name": data.name,
            "root": None if root is None else str(Path(str(root)).expanduser().resolve()),
            "options": options,
            "files": self._digests(data).get(class_name or "*", "none"),
        }

    def _digests(self, data: DataSpec) -> dict[str, str]:
        """Class -> digest of its files in all parts of the data; ``"*"`` for all classes."""
        key = json.dumps([data.name, {name: str(value) for name, value in data.options.items()}])
        if key not in self._files:
            module = data.build(counts="ignore")
            lines: dict[str, list[str]] = {"*": []}
            for split in dict.fromkeys(("test", module.train_split)):
                try:
                    records = module.select(split)
                except FileNotFoundError:  # it will be said where the part is needed
                    continue
                for record in records:
                    line = json.dumps([split, *_line(record, module.root)])
                    lines.setdefault(record.class_name, []).append(line)
                    lines["*"].append(line)
            self._files[key] = {name: digest(sorted(entries)) for name, entries in lines.items()}
        return self._files[key]


def _line(record: Record, root: Path) -> Iterator[Any]:
    """What is known of an image without opening it."""
    yield from (record.class_name, record.label, record.defect, record.box)
    for path in (record.image_path, record.mask_path):
        if path is not None:
            path = Path(path)
            yield str(path.relative_to(root) if path.is_relative_to(root) else path)
            yield path.stat().st_size if path.is_file() else None


def _method(method: MethodSpec) -> dict[str, Any]:
    made: dict[str, Any] = {"name": method.name, "options": _value(method.options)}
    if method.evaluation:
        made["evaluation"] = _value(method.evaluation)
    if method.epochs is not None:
        made["epochs"] = method.epochs
    return made


def _value(value: Any) -> Any:
    """A plain value; a file counts by what it holds, since another may take its name."""
    if isinstance(value, (list, tuple)):
        return [_value(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): _value(one) for name, one in value.items()}
    if isinstance(value, (str, Path)):
        text, whole = str(value), Path(str(value))
        source = Path(text.partition("/")[2])  # of a backbone, "<model>/<file>"
        if file := next((one for one in (whole, source) if os.path.isfile(one)), None):
            return f"{text} sha256:{sha256(file)}"
        if (isinstance(value, Path) or os.sep in text) and os.path.isdir(whole):
            files = [one for one in whole.rglob("*") if one.is_file()]
            sizes = sorted((str(one.relative_to(whole)), one.stat().st_size) for one in files)
            return f"{whole.resolve()} sha256:{digest(sizes)}"
        return text
    return value


def differences(kept: Any, now: Any, name: str = "") -> list[str]:
    """Return what differs between two identities, one phrase each."""
    if isinstance(kept, Mapping) and isinstance(now, Mapping):
        keys = [*kept, *(key for key in now if key not in kept)]
        return [
            text for key in keys for text in differences(kept.get(key), now.get(key), f"{name}.{key}" if name else key)
        ]
    if kept == now:
        return []
    if name.endswith(".files"):
        return [f"{name.removesuffix('.files')}: other images, labels or masks"]
    texts = repr(kept), repr(now)
    short = [text if len(text) <= 300 else f"{text[:100]}...{text[-197:]}" for text in texts]
    there, here = texts if short[0] == short[1] else short
    return [f"{name}: {there} there, {here} now"]


def plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity as it comes back from a file."""
    content: dict[str, Any] = json.loads(json.dumps(identity, default=str))
    return content


def refuse_stale(path: Path, kept: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raise if a result was made from something else than what is asked for now.

    Args:
        path: Its file.
        kept: Its content.
        identity: Of the cell that is asked for.

    Raises:
        StaleCellError: With what differs.
    """
    before = kept.get("identity")
    if before is None:
        found = ["it does not say what it was made from (an earlier version wrote it)"]
    else:
        found = differences(before, plain(identity))
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise StaleCellError(
            f"'{path}' holds a result that was made from something else: {'; '.join(found[:_SHOWN])}{more}. Give "
            f"another --out, or --fresh to compute these cells again."
        )
