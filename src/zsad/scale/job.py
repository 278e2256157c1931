"""The job: a list of images, workers that hold the model, rows that are durable block by block."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from zsad.images.overlay import AUTO, Scale
from zsad.inference import Predictor, settings
from zsad.inference.files import FileList
from zsad.inference.lock import Lock, NoLock, lock_folder
from zsad.inference.opening import Size
from zsad.inference.overlays import FIRST, labels_of, scale_of
from zsad.inference.raw_maps import RawMaps
from zsad.scale.cluster import Cluster, Slots, connected, require_ray, slots_of
from zsad.scale.collect import SCORES
from zsad.scale.marks import DONE, settle
from zsad.scale.places import Place
from zsad.scale.progress import Done, Watch
from zsad.scale.shards import INPUTS, write_shards
from zsad.scale.sources import gathered
from zsad.scale.worker import ID, Scorer, Work, results

BLOCK = 1000
"""Images that are made durable together: what a kill may cost each worker."""


class JobError(ValueError):
    """A job ended before all was done; what is durable stays."""


def score(
    inputs: str | Path | Sequence[str | Path] | FileList,
    output: str | Path,
    model: Predictor,
    class_name: str = "object",
    *,
    cluster: Cluster | None = None,
    threshold: float | None = None,
    scale: Scale | str = AUTO,
    overlays: bool = True,
    overlay_size: int = 512,
    maps: RawMaps | None = None,
    num_workers: int = 4,
    content: bool = False,
    block: int = BLOCK,
    fresh: bool = False,
    depends_on: Mapping[str, Any] | None = None,
    prepare: Callable[[], object] = lambda: None,
    say: Callable[[str], object] = lambda text: None,
) -> Done:
    """Score images on a cluster; started again with the same arguments, it goes on where it stopped.

    Rows are those of ``zsad score`` on one machine. They lie in ``scores/*.parquet``; :func:`zsad.scale.collect` makes
    the other files of them. Below some ten thousand images one machine without Ray is faster.

    Args:
        inputs: Files, folders, patterns, lists, shards and addresses, as :func:`zsad.scale.sources.gathered` reads
            them, on file systems that every machine sees.
        output: The job's folder or address, on such a file system too.
        model: Of :func:`zsad.load_model`, with its panel, references and calibration; it is sent to every worker once,
            with the text vectors of all classes.
        class_name: What images show that do not say it themselves.
        cluster: Where; by default Ray is started on this machine.
        threshold: Score from which an image is labelled anomalous.
        scale: Of the heat maps; ``"auto"`` looks at the first 50 images before the job begins.
        overlays: Whether there are heat maps.
        overlay_size: Their longer side, in pixels.
        maps: How raw maps are written; None writes none.
        num_workers: Threads of each worker that read images ahead.
        content: Whether rows carry the digest of the file's content.
        block: Images that are made durable together; rounded up to whole batches.
        fresh: Forget an earlier run in the folder.
        depends_on: What rows depend on, kept in ``settings.json`` and compared; JSON values. By default what the model
            says of itself.
        prepare: Called once the folder is this job's, before anything is scored.
        say: Told once a minute how far it is.

    Returns:
        The number of rows that are there now, and of those with an error.

    Raises:
        FileNotFoundError: An input does not exist, or there is no image.
        FolderInUseError: Another run is writing there.
        JobError: A worker or a machine failed in a way that Ray cannot make good.
        PanelError: The method compares images, and has no panel.
        SettingsError: The folder holds a run with other settings.
        TooFewSlotsError: The cluster is too small.
        ValueError: Ray is not installed, or an option is out of range.
    """
    require_ray()
    if block < 1:
        raise ValueError(f"block must be at least 1 image, got {block}.")
    place = Place.of(output)
    files = inputs if isinstance(inputs, FileList) else FileList.of(gathered(_paths(inputs), place.path))
    if not len(files):
        raise FileNotFoundError(f"No images under {inputs!r}.")
    place.make()
    lock: Lock = NoLock() if place.remote else lock_folder(Path(place.path))
    try:
        said = model.identity(None) if depends_on is None else depends_on
        known = _begin(place, {"engine": "ray", "class_name": class_name, "threshold": threshold, **said}, fresh)
        prepare()
        known["roots"] = labels_of(files.roots, known.get("roots", {}))
        model.keeps_maps = maps is not None
        classes = files.classes(class_name)
        usual = class_name if class_name in classes else classes[0]
        size: Size = overlay_size if overlays else "model"
        fixed = None if scale == AUTO else cast(Scale, scale)
        work = Work(place, usual, threshold, size, fixed, overlays, maps, known["roots"], num_workers, content)
        model.get_ready(classes)  # here, so that no worker runs the text tower
        if overlays and scale == AUTO:
            known["scale"] = known.get("scale") or _look(model, files, work)
            work = replace(work, scale=tuple(known["scale"]))
        place.note(known)
        shown = (lambda path: path) if os.getcwd() == known["base"] else _absolute
        number = write_shards(files, shown, place, -(-block // model.batch_size) * model.batch_size)
        with connected(cluster or Cluster()), Watch(place, len(files), say) as watch:
            settle(place)
            _run(place, number, model, work, slots_of(cluster or Cluster()))
            if settle(place):  # a killed driver's last worker outlived it
                _run(place, number, model, work, slots_of(cluster or Cluster()))
    finally:
        lock.release()
    return watch.done()


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def _paths(inputs: str | Path | Sequence[str | Path]) -> list[str]:
    return [os.fspath(inputs)] if isinstance(inputs, (str, os.PathLike)) else [os.fspath(one) for one in inputs]


def _begin(place: Place, now: Mapping[str, Any], fresh: bool) -> dict[str, Any]:
    earlier = None if fresh else place.settings()
    if earlier is None:
        there = [name for name in (SCORES, DONE, INPUTS) if place.holds(name)]
        if there and not (fresh and _is_job(place)):  # they may be somebody's pictures
            raise settings.SettingsError(
                f"'{place.path}' holds {', '.join(map(repr, there))}, but no settings.json that says of what job. "
                f"Nothing was changed: use another folder."
            )
        for name in there:
            place.remove(name)
        earlier = {"base": os.getcwd(), **now}
        place.note(earlier, first=not fresh)
    settings.compare(Path(place.path), earlier, now)
    return dict(earlier)


def _is_job(place: Place) -> bool:
    try:
        return (place.settings() or {}).get("engine") == "ray"
    except settings.SettingsError:
        return False


def _look(model: Predictor, files: FileList, work: Work) -> Any:
    """Return the scale that the first images decide, as on one machine."""
    first = [found for found, _ in zip(files, range(20 * FIRST), strict=False)]
    maps: list[Any] = []
    for _, _, result in results(model, first, work):
        if result.error is None:
            maps.append(result.anomaly_map)
        if len(maps) == FIRST:
            break
    return scale_of(maps, model.map_range)


def _run(place: Place, blocks: int, model: Predictor, work: Work, slots: Slots) -> None:
    import ray
    from ray.data.checkpoint import CheckpointConfig

    checkpoint = CheckpointConfig(
        id_column=ID,
        checkpoint_path=place.inner(DONE),
        override_filesystem=place.arrow(),
        delete_checkpoint_on_success=False,
    )
    try:
        # the older reader keeps to the number of blocks: the newer one packs small files together, and all rows of a
        # job then become durable at its end
        with (
            _context(checkpoint_config=checkpoint, use_datasource_v2=False, enable_progress_bars=sys.stderr.isatty()),
            _on_cpu(model),
        ):
            data = ray.data.read_parquet(
                place.inner(INPUTS), filesystem=place.arrow(), override_num_blocks=blocks
            ).map_batches(
                Scorer,
                batch_size=None,
                batch_format="numpy",
                fn_constructor_args=(ray.put(model), work, slots.gpus > 0),
                compute=ray.data.ActorPoolStrategy(size=min(slots.workers, blocks)),
                num_cpus=1,
                num_gpus=slots.gpus or None,
            )
            data.write_parquet(place.inner(SCORES), filesystem=place.arrow(), mode=ray.data.SaveMode.APPEND)
    except ray.exceptions.RayError as error:
        lines = str(getattr(error, "cause", None) or error).strip().splitlines()
        reason = lines[-1] if lines else type(error).__name__
        raise JobError(
            f"The job in '{place.path}' ended early: {reason} Finished blocks stay, the same command goes on."
        ) from error


@contextmanager
def _context(**values: Any) -> Iterator[None]:
    """Ray Data's settings for a while: they are the process's."""
    import ray

    context = ray.data.DataContext.get_current()
    earlier = {name: getattr(context, name) for name in values if hasattr(context, name)}
    for name in earlier:
        setattr(context, name, values[name])
    try:
        yield
    finally:
        for name, value in earlier.items():
            setattr(context, name, value)


@contextmanager
def _on_cpu(model: Predictor) -> Iterator[None]:
    """A model that can be sent to machines without the driver's device."""
    device = model.device
    model.method.move(torch.device("cpu"))
    model.device, model.one_behind = torch.device("cpu"), False
    try:
        yield
    finally:
        model.method.move(device)
        model.device, model.one_behind = device, device.type == "cuda"
