"""Training of the methods that need it, once per source and seed, under the published protocol."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from zsad.benchmark.grid import DataSpec, MethodSpec, safe_name
from zsad.clip import Clip
from zsad.methods import Method
from zsad.methods.trained import TrainedMethod


class TrainingDataError(ValueError):
    """A trained method has no auxiliary data to be trained on for this target."""


def source_for(target: DataSpec, sources: Sequence[DataSpec]) -> DataSpec:
    """Return the auxiliary data for a target: the first source that is another data set, or another folder of a user's.

    The published protocols are ``VisA`` for every target and ``MVTecAD`` for VisA (AA-CLIP), or the two exchanged
    (AnomalyCLIP, VAND, CoOp): give the sources in that order.

    Raises:
        TrainingDataError: If there is none.
    """
    for source in sources:
        apart = source.name == "Folder" and _root(source) != _root(target)  # a user's folders all go by one name
        if source.name != target.name or source.name == "Synthetic" or apart:
            return source
    raise TrainingDataError(
        f"A trained method needs auxiliary data that is not {target.name}: give --train, for example "
        f"--train VisA=ROOT MVTecAD=ROOT."
    )


def _root(data: DataSpec) -> Path:
    return Path(data.options.get("root", "")).resolve()


def trained(
    method: MethodSpec,
    source: DataSpec,
    seed: int,
    clip: Clip,
    out: Path,
    epochs: int | None = None,
    trainer_options: Mapping[str, Any] | None = None,
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
    """
    kind: Any = method.kind
    options = {**method.options, "seed": seed}
    label = f"{safe_name(method.label)}-{safe_name(source.label)}-s{seed}" + (
        f"-e{epochs}" if epochs is not None else ""
    )
    path = out / "weights" / f"{label}.safetensors"
    if path.is_file():
        return kind.from_weights(path, backbone=clip), path
    previous: Path | None = None
    stages: Sequence[Mapping[str, Any]] = kind.training_stages
    for number, stage in enumerate(stages):
        last = number == len(stages) - 1
        target = path if last else path.with_name(f"{label}.stage{number}.safetensors")
        if previous is not None:
            stage = {**stage, kind.previous_stage: str(previous)}
        model: TrainedMethod = kind(backbone=clip, **{**options, **stage})
        if not target.is_file():
            published, extra = model.published_fit(source.kind.name)
            data = replace(source, options={**extra, **source.options}).build(batch_size=model.published_batch_size)
            data.protocol = model.protocol
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
            temporary = target.with_suffix(f".{os.getpid()}.tmp")
            model.save_weights(temporary)
            temporary.replace(target)
        previous = target
    return kind.from_weights(path, backbone=clip), path
