"""Training of the methods that need it, once per source and seed, under the published protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from zsad.benchmark.grid import DataSpec, MethodSpec, safe_name
from zsad.clip import Clip
from zsad.datamodules import BenchmarkDataModule
from zsad.methods import Method
from zsad.methods.trained import TrainedMethod


class TrainingDataError(ValueError):
    """A trained method has no auxiliary data to be trained on for this target."""


def source_for(target: DataSpec, sources: Sequence[DataSpec], own: bool = False) -> DataSpec:
    """Return the auxiliary data for a target: the first source that is another data set, or another folder of a user's.

    A joined source is another one only if each of its parts is.

    The published protocols are ``VisA`` for every target and ``MVTecAD`` for VisA (AA-CLIP), or the two exchanged
    (AnomalyCLIP, VAND, CoOp): give the sources in that order.

    Args:
        target: Tested on.
        sources: In order of preference.
        own: Whether a source of the target itself is wanted, if there is one: supervised few-shot, no zero-shot row.

    Raises:
        TrainingDataError: If there is none.
    """
    for source in sources if own else ():
        if not source.parts and not _is_other(source, target):
            return source
    for source in sources:
        if all(_is_other(part, target) for part in source.parts or (source,)):
            return source
    raise TrainingDataError(
        f"A trained method needs auxiliary data that is not {target.name}: give --train, for example --train "
        f"VisA=ROOT MVTecAD=ROOT; where adapters are published, leave out --train and --backbone."
    )


def _is_other(source: DataSpec, target: DataSpec) -> bool:
    apart = source.name == "Folder" and _root(source) != _root(target)  # a user's folders all go by one name
    return source.name != target.name or source.name == "Synthetic" or apart


def _root(data: DataSpec) -> Path:
    return Path(data.options.get("root", "")).resolve()


def training_data(model: TrainedMethod, source: DataSpec) -> tuple[int, BenchmarkDataModule]:
    """Return the published number of epochs, of the first part where data are joined, and the data as published."""
    epochs, options = 0, []
    for part in source.parts or (source,):
        published, extra = model.published_fit(part.kind.name)
        epochs = epochs or published
        options.append(replace(part, options={**extra, **part.options}))
    made = replace(source, parts=tuple(options)) if source.parts else options[0]
    data = made.build(batch_size=model.published_batch_size)
    data.protocol = model.protocol
    return epochs, data


def trained(
    method: MethodSpec,
    source: DataSpec,
    seed: int,
    clip: Clip,
    out: Path,
    epochs: int | None = None,
    trainer_options: Mapping[str, Any] | None = None,
    key: str = "",
) -> tuple[Method, Path]:
    """Return the method trained on the source, and its weights file; an earlier file is read, not made again.

    The last epoch counts; nothing is selected. A kill leaves no half-written file.

    Args:
        method: What to train.
        source: Auxiliary data.
        seed: Of initial values and data order.
        clip: The shared backbone.
        out: Results folder.
        epochs: In place of the published number.
        trainer_options: For Lightning's Trainer, which is silent by default.
        key: Digest of all that decides the parameters; its beginning is part of the file's name, so that parameters
            that were learned from something else are not taken for these.
    """
    kind: Any = method.kind
    options = {**method.options, "seed": seed}
    epochs = epochs if method.epochs is None else method.epochs
    label = f"{safe_name(method.training_label)}-{safe_name(source.label)}-s{seed}" + (
        f"-e{epochs}" if epochs is not None else ""
    )
    label += f"-{key[:12]}" if key else ""
    path = out / "weights" / f"{label}.safetensors"
    if path.is_file():
        return kind.from_weights(path, backbone=clip, **method.evaluation), path
    previous: Path | None = None
    stages: Sequence[Mapping[str, Any]] = kind.training_stages
    for number, stage in enumerate(stages):
        last = number == len(stages) - 1
        target = path if last else path.with_name(f"{label}.stage{number}.safetensors")
        if previous is not None:
            stage = {**stage, kind.previous_stage: str(previous)}
        model: TrainedMethod = kind(backbone=clip, **{**options, **stage})
        if not target.is_file():
            published, data = training_data(model, source)
            quiet: dict[str, Any] = dict.fromkeys(
                ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
            )
            trainer = Trainer(
                max_epochs=published if epochs is None else epochs,
                default_root_dir=out,
                limit_val_batches=0,
                **(quiet | dict(trainer_options or {})),
            )
            trainer.fit(model, data)
            model.save_weights(target)  # whole or not at all
        previous = target
    return kind.from_weights(path, backbone=clip, **method.evaluation), path
