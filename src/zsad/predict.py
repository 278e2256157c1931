"""Scores and heat maps in three lines of Python, without a Trainer."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageShow
from torch import Tensor

from zsad.clip import Clip
from zsad.clip.loading import MINI
from zsad.functional.maps import upsample
from zsad.images import ImageError, list_images, load_rgb, to_rgb, to_tensor
from zsad.images.overlay import Limits, Scale, limits_of, overlay
from zsad.methods import METHODS, CheckpointError, Method, get_method
from zsad.methods.trained import read_weights

PUBLISHED = "published"
UNTRAINED = "untrained"

Size = Literal["native", "model"] | int
"""At which size results come: the image's own, the model's input, or the longer side at most so many pixels."""

_FOREIGN = "'{}' is not a checkpoint written by 'zsad fit' or a Trainer with a zsad method."
_IN_MEMORY = "<image>"  # methods may seed their random numbers by path: the same for every picture without one
_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, eq=False)
class Result:
    """What a method says of one image.

    Scores rank images; there is no value above which an image is defective for every method, backbone and product.
    Hence :attr:`pred_label` exists only if a threshold was given, best one chosen on images of the same product.
    """

    pred_score: float
    """Larger is more anomalous; NaN if the image could not be read."""
    anomaly_map: NDArray[np.float32]
    """(height, width), larger is more anomalous; empty if the image could not be read."""
    image: Image.Image = field(repr=False)
    """RGB picture of the map's size, 1 x 1 if the image could not be read."""
    class_name: str
    image_path: str | None = None
    """None for a picture that came from memory."""
    threshold: float | None = None
    error: str | None = None
    """What is wrong with the file; None if all is well."""
    map_range: Limits | None = field(default=None, repr=False)
    """Range of the maps as the method declares it, the default scale of heat maps."""
    explanation: tuple[tuple[str, float], ...] = field(default=(), repr=False)
    """Descriptors that fit the image best with their cosines, the best first; empty unless asked for."""

    @property
    def pred_label(self) -> int | None:
        """1 if the score reaches the threshold, 0 if not, None without a threshold or a score."""
        return None if self.threshold is None or self.error is not None else int(self.pred_score >= self.threshold)

    def __repr__(self) -> str:
        what = f"{self.image_path!r}, class_name={self.class_name!r}"
        if self.error is not None:
            return f"Result({what}, error={self.error!r})"
        label = "" if self.pred_label is None else f", pred_label={self.pred_label}"
        rows, columns = self.anomaly_map.shape
        low, high = self.anomaly_map.min(), self.anomaly_map.max()
        values = f"anomaly_map={rows}x{columns} in [{low:.4f}, {high:.4f}]"
        return f"Result({what}, pred_score={self.pred_score:.4f}{label}, {values})"

    def overlay(self, scale: Scale = None, opacity: float = 0.65) -> Image.Image:
        """Return the image with the anomaly map over it in colours, dark violet for low, pale yellow for high values.

        Args:
            scale: Values of the first and the last colour. None takes the range that the method declares, so that
                pictures of the same method compare; ``"image"`` takes the map's own range, which shows structure where
                the fixed scale shows none, and a "defect" in every normal image.
            opacity: Share of the colour at the upper end.

        Raises:
            ImageError: The image could not be read.
        """
        if self.error is not None:
            raise ImageError(f"There is no heat map: {self.error}")
        return overlay(self.image, self.anomaly_map, limits_of(self.anomaly_map, scale, self.map_range), opacity)

    def save(self, path: str | Path, scale: Scale = None, opacity: float = 0.65) -> Path:
        """Write the overlay as a picture, or the raw map if the name ends in ``.npy``; folders are made.

        Args:
            path: File to write; its ending says the format.
            scale: As for :meth:`overlay`.
            opacity: As for :meth:`overlay`.

        Returns:
            The path.

        Raises:
            ValueError: The ending is unknown.
            ImageError: The image could not be read.
        """
        path = Path(path)
        if path.suffix.lower() not in {".npy", *Image.registered_extensions()}:
            raise ValueError(f"Cannot save '{path}': its name must end in .png, .jpg, another picture format or .npy.")
        picture = self.overlay(scale, opacity)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".npy":
            np.save(path, self.anomaly_map)
        else:
            picture.save(path)
        return path

    def show(self, scale: Scale = None, opacity: float = 0.65) -> None:
        """Open the overlay in the desktop's picture viewer (a notebook shows a result by itself).

        Raises:
            RuntimeError: There is no viewer, as on a machine without a screen.
        """
        if not ImageShow.show(self.overlay(scale, opacity)):
            raise RuntimeError("No picture viewer was found on this machine: use save('heat_map.png') instead.")

    def _repr_png_(self) -> bytes | None:
        if self.error is not None:
            return None
        data = BytesIO()
        self.overlay().save(data, "png")
        return data.getvalue()


@dataclass(frozen=True)
class _Opened:
    """A picture as it waits for its batch."""

    path: str | None
    picture: Image.Image
    tensor: Tensor | None
    error: ImageError | None = None


class Predictor:
    """A method that is ready to score images; :func:`load_model` makes one.

    Args:
        method: Any method.
        device: ``"auto"`` for the first accelerator, or a torch device such as ``"cpu"`` or ``"cuda:1"``.
        batch_size: Images per forward pass; it changes speed and memory, not the results.
        explain: Whether results carry an explanation; for methods that have one (ALFA).

    Raises:
        ValueError: The batch size is less than 1, or the method has no explanations.
    """

    def __init__(
        self, method: Method, device: str | torch.device = "auto", batch_size: int = 8, explain: bool = False
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if explain and not hasattr(method, "explain"):
            able = [name for name, kind in METHODS.items() if hasattr(kind, "explain")]
            raise ValueError(f"{type(method).__name__} does not explain its scores; of the methods, {able} do.")
        self.explain = explain
        self.device = find_device(device)
        self.method = method.eval().to(self.device)
        self.batch_size = batch_size

    @property
    def map_range(self) -> Limits | None:
        """Range of the anomaly maps as the method declares it, None if they are unbounded."""
        return self.method.evaluator.score_range

    def __repr__(self) -> str:
        name, clip = type(self.method).__name__, self.method.clip.name
        return f"Predictor({name}, backbone={clip!r}, image_size={self.method.protocol.size}, device='{self.device}')"

    def predict(
        self,
        x: Any,
        class_name: str = "object",
        *,
        threshold: float | None = None,
        size: Size = "native",
        strict: bool = False,
    ) -> Any:
        """Score one image, or many.

        Args:
            x: One image: a path, a PIL image, an array (height, width[, 1, 3 or 4 channels]) or a tensor
                ([1 or 3, ]height, width). Many: a folder (every image below it), an iterable of such, an array
                (images, height, width, channels), a tensor (images, channels, height, width). Arrays and tensors hold
                pictures, not normalised values: bool, uint8, uint16 up to 65535, floats in [0, 1] or up to 255.
            class_name: What the images show, in plain words; it goes into the prompts.
            threshold: Score from which an image is labelled anomalous. There is no universal one.
            size: Size of the maps and pictures that come back.
            strict: Raise at the first unreadable file among many, instead of returning a result with ``error`` set. A
                single image always raises.

        Returns:
            One :class:`Result` for one image; a list of them for a list, tuple, array or tensor of images; an iterator,
            which holds one batch in memory, for a folder or any other iterable.

        Raises:
            FileNotFoundError: There is no such file or folder.
            ImageError: A file is not a readable image.
            TypeError: ``x`` is nothing that holds an image.
            ValueError: An array has a shape or values that no image has.
        """
        if _is_one(x):
            if isinstance(x, (str, os.PathLike)) and not Path(x).exists():
                raise FileNotFoundError(f"No such file or folder: '{x}'.")
            (result,) = self._results([x], class_name, threshold, size, True)
            return result
        if isinstance(x, (str, os.PathLike)):
            return self._results(list_images([Path(x)]), class_name, threshold, size, strict)
        if not isinstance(x, Iterable):
            raise TypeError(
                f"Cannot predict on {type(x).__name__}: give a path, a folder, a PIL image, an array, a tensor or a "
                f"list of them."
            )
        results = self._results(_flat(x), class_name, threshold, size, strict)
        return list(results) if isinstance(x, (list, tuple, np.ndarray, Tensor)) else results

    def _results(
        self, inputs: Iterable[Any], class_name: str, threshold: float | None, size: Size, strict: bool
    ) -> Iterator[Result]:
        batches = self.batches(inputs, class_name, threshold=threshold, size=size, strict=strict)
        return itertools.chain.from_iterable(batches)

    def batches(
        self,
        inputs: Iterable[Any],
        class_name: str = "object",
        *,
        threshold: float | None = None,
        size: Size = "native",
        strict: bool = False,
        num_workers: int = 0,
    ) -> Iterator[list[Result]]:
        """Yield the results of ``batch_size`` images after another, in order, holding few batches in memory.

        Args:
            inputs: Paths or pictures, one image each.
            class_name: As for :meth:`predict`.
            threshold: As for :meth:`predict`.
            size: As for :meth:`predict`.
            strict: As for :meth:`predict`.
            num_workers: Threads that read images ahead; 0 reads them when they are needed.
        """
        if num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {num_workers}.")
        opened = _ahead(lambda one: self._open(one, size, strict), inputs, num_workers, num_workers + self.batch_size)
        while batch := list(itertools.islice(opened, self.batch_size)):
            yield self._score(batch, class_name, threshold, size)

    def _open(self, x: Any, size: Size, strict: bool) -> _Opened:
        path = os.fspath(x) if isinstance(x, (str, os.PathLike)) else None
        try:
            picture = load_rgb(path) if path is not None else _picture(x)
        except ImageError as error:
            if strict:
                raise
            return _Opened(path, Image.new("RGB", (1, 1)), None, error)
        tensor = to_tensor(picture, self.method.protocol)
        if size == "model":
            picture = picture.resize((tensor.shape[-1], tensor.shape[-2]), Image.Resampling.BICUBIC)
        elif isinstance(size, int):
            picture = _smaller(picture, size)
        return _Opened(path, picture, tensor)

    def _score(self, batch: list[_Opened], class_name: str, threshold: float | None, size: Size) -> list[Result]:
        readable = [one for one in batch if one.tensor is not None]
        predictions = iter(self._forward(readable, class_name))
        results = []
        for one in batch:
            score, anomaly_map = (float("nan"), np.empty((0, 0), np.float32))
            explanation: tuple[tuple[str, float], ...] = ()
            if one.tensor is not None:
                score, small, explanation = next(predictions)
                full = upsample(small[None], (one.picture.height, one.picture.width))[0]
                anomaly_map = full.numpy()
            error = None if one.error is None else str(one.error)
            results.append(
                Result(
                    score, anomaly_map, one.picture, class_name, one.path, threshold, error, self.map_range, explanation
                )
            )
        return results

    @torch.inference_mode()
    def _forward(
        self, batch: list[_Opened], class_name: str
    ) -> list[tuple[float, Tensor, tuple[tuple[str, float], ...]]]:
        """Return score, map (height, width) and explanation of each image; a forward pass takes images of one size."""
        results: list[tuple[float, Tensor, tuple[tuple[str, float], ...]]] = []
        for _, group in itertools.groupby(batch, key=lambda one: one.tensor is not None and one.tensor.shape):
            members = list(group)
            tensors = torch.stack([one.tensor for one in members if one.tensor is not None]).to(self.device)
            paths = [_IN_MEMORY if one.path is None else one.path for one in members]
            names = [class_name] * len(members)
            prediction = self.method(tensors, names, paths)
            reasons: list[tuple[tuple[str, float], ...]] = [()] * len(members)
            if self.explain:
                found = self.method.explain(tensors, names)  # type: ignore[operator]
                reasons = [tuple((one.descriptor, one.cosine) for one in best) for best in found]
            maps = prediction.anomaly_map.float().cpu()
            results += zip(prediction.pred_score.tolist(), maps, reasons, strict=True)
        return results


def load_model(
    name: str,
    backbone: str | Clip | None = None,
    checkpoint: str | Path | None = None,
    device: str | torch.device = "auto",
    batch_size: int = 8,
    explain: bool = False,
    **options: Any,
) -> Predictor:
    """Return a method that is ready to score images.

    Args:
        name: Name of the method, see :func:`zsad.methods.list_methods`; case does not matter.
        backbone: Name for :func:`zsad.clip.load_clip`, or a loaded one. ``"published"`` is the paper's. None is the
            checkpoint's or, without one, the embedded ``"zsad-mini"``, which works offline and knows synthetic images
            only: its scores say nothing about real ones.
        checkpoint: Learned parameters: a checkpoint of ``zsad fit``, a file of ``save_weights``, or the file that the
            paper's authors released. Trained methods need one; ``"untrained"`` asks by name to go without.
        device: ``"auto"`` for the first accelerator, or a torch device.
        batch_size: Images per forward pass.
        explain: Whether results carry an explanation; for methods that have one (ALFA).
        **options: Arguments of the method's class; they have precedence over those in the checkpoint.

    Raises:
        ValueError: The method or the backbone is unknown, or a trained method is asked for without a checkpoint.
        TypeError: The method has no such option.
        FileNotFoundError: The checkpoint or the weights of the backbone are not there.
        CheckpointError: The checkpoint is of another method or backbone, or no checkpoint of this library.

    Example:
        >>> from zsad import load_model
        >>> result = load_model("clip").predict(image, class_name="cork")  # doctest: +SKIP
        >>> result.save("heat_map.png")  # doctest: +SKIP
    """
    kind = get_method(name)
    if checkpoint == UNTRAINED:
        checkpoint = None
    elif checkpoint is None and kind.loss is not Method.loss:
        raise ValueError(
            f"{kind.__name__} learns parameters, and no checkpoint is given: its scores would be those of random ones. "
            f"Train it ('zsad fit --model {kind.__name__} --data ...') and pass checkpoint='....ckpt', "
            f"or ask for it by name with checkpoint='{UNTRAINED}'."
        )
    if backbone == PUBLISHED:
        backbone = kind.published_backbone
    try:
        if checkpoint is None:
            method = kind(backbone=backbone or MINI, **options)
        else:
            method = _restore(kind, checkpoint, backbone, options)
    except TypeError as error:
        raise TypeError(f"{kind.__name__} cannot be made with {sorted(options)}: {error}") from error
    return Predictor(method, device, batch_size, explain)


def _restore(kind: Any, checkpoint: str | Path, backbone: str | Clip | None, options: dict[str, Any]) -> Method:
    saved = read_checkpoint(checkpoint)
    if "zsad" not in saved:
        if not hasattr(kind, "from_author_checkpoint"):
            raise CheckpointError(_FOREIGN.format(checkpoint))
        backbone = backbone or kind.published_backbone
        restored: Method = kind.from_author_checkpoint(checkpoint, backbone=backbone, **options)
        return restored
    # Lightning's command line adds notes of its own, with an underscore in front
    stored = {name: value for name, value in saved.get("hyper_parameters", {}).items() if not name.startswith("_")}
    known = stored.pop("backbone", None)
    method: Method = kind(backbone=backbone or known or MINI, **{**stored, **options})
    method.on_load_checkpoint(saved)
    method.load_state_dict(saved["state_dict"])
    return method


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return what is in a file of ``zsad fit``, of ``save_weights`` or of a paper's authors; no code in it is run.

    Returns:
        A Lightning checkpoint; one of ours has the key ``"zsad"``, and ``"state_dict"``.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It holds no dictionary of tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No such checkpoint: '{path}'.")
    if path.suffix == ".safetensors":
        return read_weights(path)
    content: Any = None
    with suppress(Exception):  # whatever the file holds, the answer is the same
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise CheckpointError(_FOREIGN.format(path))
    return content


def find_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device of that name; ``"auto"`` is the first CUDA device, else Apple's, else the CPU.

    Raises:
        ValueError: The name is unknown or the device is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except Exception as error:  # torch raises RuntimeError, AssertionError and others here
        reason = str(error).splitlines()[0]
        raise ValueError(f"Device '{device}' cannot be used: {reason} Use 'auto', 'cpu', 'cuda:0' or 'mps'.") from error
    return found


def _is_one(x: Any) -> bool:
    if isinstance(x, (str, os.PathLike)):
        return not Path(x).is_dir()
    if isinstance(x, (np.ndarray, Tensor)):
        return x.ndim < 4
    return isinstance(x, Image.Image)


def _flat(items: Iterable[Any]) -> Iterator[Any]:
    """Yield the single images of a mixed collection, folders walked."""
    for item in items:
        if _is_one(item):
            yield item
        elif isinstance(item, (str, os.PathLike)):
            yield from list_images([Path(item)])
        elif isinstance(item, (np.ndarray, Tensor)):
            yield from item
        else:
            kind = type(item).__name__
            raise TypeError(f"Cannot predict on {kind} in a list: give paths, PIL images, arrays or tensors.")


def _ahead(function: Callable[[_In], _Out], items: Iterable[_In], workers: int, ahead: int) -> Iterator[_Out]:
    """Map in order, with threads that work on at most ``ahead`` items before they are asked for."""
    if workers == 0:
        yield from map(function, items)
        return
    waiting: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _smaller(picture: Image.Image, side: int) -> Image.Image:
    copy = picture.copy()
    copy.thumbnail((side, side))
    return copy


def _picture(x: Any) -> Image.Image:
    """Return a PIL image, an array or a tensor as an RGB picture."""
    if isinstance(x, Image.Image):
        return to_rgb(x)
    if isinstance(x, Tensor):
        values = x.detach().cpu()
        if values.ndim == 3 and values.shape[0] not in (1, 3):
            raise ValueError(f"A tensor must be (height, width) or (1 or 3, height, width), got {tuple(values.shape)}.")
        x = (values.permute(1, 2, 0) if values.ndim == 3 else values).numpy()
    levels = _levels(np.asarray(x))
    if levels.ndim == 3 and levels.shape[-1] == 1:
        levels = levels[..., 0]
    if levels.ndim == 2:
        return Image.fromarray(levels).convert("RGB")
    if levels.ndim != 3 or levels.shape[-1] not in (3, 4):
        hint = "; put the channels last" if levels.ndim == 3 and levels.shape[0] in (1, 3, 4) else ""
        raise ValueError(f"An array must be (height, width) or (height, width, 1, 3 or 4), got {levels.shape}{hint}.")
    return Image.fromarray(np.ascontiguousarray(levels[..., :3]))


def _levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return pixel values as levels in 0..255."""
    if values.size == 0 or values.dtype.kind not in "biuf":
        raise ValueError(f"An image needs numbers, got an array of shape {values.shape} and type {values.dtype}.")
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    low, high = float(values.min()), float(values.max())
    if values.dtype == np.uint16:
        return np.rint(values / 257.0).astype(np.uint8)
    if not (low >= 0 and high <= 255):  # NaN fails as well
        raise ValueError(
            f"Pixel values must lie in [0, 1] or [0, 255], got {low:.4g} to {high:.4g}. Normalised tensors go straight "
            f"to the method: predictor.method(images, class_names)."
        )
    scale = 255.0 if high <= 1 and values.dtype.kind == "f" else 1.0
    return np.rint(values * scale).astype(np.uint8)
