"""MuSc: patches of a folder's images scored by how unlike those of the other images they are."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import open_clip
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from zsad.clip import Clip
from zsad.clip.backbone import Position
from zsad.clip.embedded import EMBEDDED
from zsad.clip.loading import Activation
from zsad.clip.tensor_store import CacheDtype
from zsad.functional.maps import to_grid, upsample
from zsad.methods.musc.aggregation import Grid, joint_norm, pooled, similarity_pooled
from zsad.methods.musc.build import Unit
from zsad.methods.musc.mutual import cosine_table, interval_bounds, interval_mean
from zsad.methods.musc.panel import Panel, PanelError
from zsad.methods.musc.rescoring import Precision, Scale, rescore
from zsad.methods.musc.transductive import Transductive
from zsad.types import Context, ImageProtocol, Prediction

_SMALL_GRID = 15  # sides below it: a neighbourhood of 5 x 5 would be half the picture


class MuSc(Transductive):
    """Score a folder of one product without text, training, labels or normal references, by comparing its images.

    Every patch looks for the patch most like it in each other image; the mean distance in the nearest 30 % of the
    images is its score, averaged over blocks and sizes of neighbourhood. The image score is the map's maximum, averaged
    with those of images that look alike as a whole. *Scores depend on the other images of the folder*, and fewer than
    about 30 % of them may show the same defect. See :class:`Transductive` for where the images to compare with come
    from; with a panel of all images this is the released code, to rounding.

    Paper: Li et al., "MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with Mutual Scoring of the
    Unlabeled Images" (arXiv 2401.16753).

    Args:
        backbone: Backbone name or a loaded one.
        layers: Blocks whose raw output is compared, from 1; by default the ends of four equal stages.
        r_list: Odd sides of the neighbourhoods in patches; by default 1, 3, 5, on grids below 15 patches 1, 3.
        interval: Which part of the sorted distances to the other images is averaged: shares below 1, counts from 1 on.
        rescore_windows: Numbers of images that share an image score, the image itself among them; a list with 0
            switches it off. By default 1, 2, 3 (the authors took 1, 8, 9 on VisA), and 1, 7 for ``variant="v2"``.
        rescore_precision: ``"float16"`` rounds similarities of whole images as the released code does.
        rescore_scale: ``"distance"`` keeps scores comparable between folders; ``"minmax"`` scales them to [0, 1] within
            the panel, as the released code does. The ranking is the same.
        panel: How many images to draw per class to compare with; None for all.
        panel_seed: Decides the draw, per class.
        subsets: ``"by_folder_name"`` scores subsets of all images apart, as the released code does to save memory: to
            reproduce tables only, as folder names say what the defect is.
        subset_number: How many subsets.
        subset_seed: Decides which image is in which.
        variant: ``"v2"`` takes MuSc-V2's neighbourhoods (weighted by likeness) and re-scores by the most suspicious
            patch. Its authors ran it on DINO features; on CLIP's it is an experiment of ours.
        storage: How the panel's tokens are kept; ``"float16"`` halves the memory and, on CUDA, multiplies in half
            precision with sums in single (distances move by less than 1e-4).
        search: Compare a patch only with those at most so many rows and columns away, for aligned images.
        memory_gb: Working memory in 10^9 bytes beside the panel's tokens: above it more is computed twice.
        position: How the position table is resized.
        activation: ``None`` is exact GELU unless the image size is the weights' own.
        image_size: As for :class:`~zsad.methods.base.Method`.
        **kwargs: Other options of :class:`~zsad.methods.base.Method`.

    Raises:
        ValueError: An option has a value that makes no sense.
    """

    published_backbone = "ViT-L-14-336/openai"
    published_protocol = ImageProtocol(size=518)
    score_range = (0.0, 2.0)

    def __init__(
        self,
        backbone: str | Clip = published_backbone,
        layers: Sequence[int] | None = None,
        r_list: Sequence[int] | None = None,
        interval: tuple[float, float] = (0.0, 0.3),
        rescore_windows: Sequence[int] | None = None,
        rescore_precision: Precision = "float32",
        rescore_scale: Scale = "distance",
        panel: int | None = 256,
        panel_seed: int = 0,
        subsets: Literal["by_folder_name"] | None = None,
        subset_number: int = 1,
        subset_seed: int = 42,
        variant: Literal["released", "v2"] = "released",
        storage: CacheDtype = "float32",
        search: int | None = None,
        memory_gb: float = 4.0,
        position: Position = "bicubic_plain",
        activation: Activation | None = None,
        image_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(backbone, str) and activation is None:
            activation = released_activation(backbone, image_size)
        super().__init__(backbone, image_size, position=position, activation=activation, **kwargs)
        self.layers = _layers(layers, self.clip)
        self.r_list = self._neighbourhoods(r_list)
        windows = rescore_windows if rescore_windows is not None else (1, 7) if variant == "v2" else (1, 2, 3)
        self.rescore_windows = tuple(windows)
        self.interval = (float(interval[0]), float(interval[1]))
        self.rescore_precision, self.rescore_scale = rescore_precision, rescore_scale
        self.panel_size, self.panel_seed = (None if subsets else panel), panel_seed
        self.subsets, self.subset_number, self.subset_seed = subsets, subset_number, subset_seed
        self.variant, self.storage, self.search, self.memory_gb = variant, storage, search, memory_gb
        self._check()

    def _check(self) -> None:
        problems = {
            f"interval must be two numbers >= 0, got {self.interval}": min(self.interval) < 0,
            f"rescore_windows must be numbers >= 0, got {self.rescore_windows}": not self.rescore_windows
            or min(self.rescore_windows) < 0,
            f"rescore_precision must be 'float32' or 'float16', got '{self.rescore_precision}'": self.rescore_precision
            not in ("float32", "float16"),
            f"rescore_scale must be 'distance' or 'minmax', got '{self.rescore_scale}'": self.rescore_scale
            not in ("distance", "minmax"),
            f"panel must be at least 2 images, or None for all, got {self.panel_size}": self.panel_size is not None
            and self.panel_size < 2,
            f"subsets must be None or 'by_folder_name', got '{self.subsets}'": self.subsets
            not in (None, "by_folder_name"),
            f"subset_number must be at least 1, got {self.subset_number}": self.subset_number < 1,
            f"variant must be 'released' or 'v2', got '{self.variant}'": self.variant not in ("released", "v2"),
            f"variant 'v2' re-scores by the last but one of at least 2 layers, got {self.layers}": self.variant == "v2"
            and len(self.layers) < 2,
            f"storage must be 'float32' or 'float16', got '{self.storage}'": self.storage not in ("float32", "float16"),
            f"search must be None or a number of patches >= 0, got {self.search}": self.search is not None
            and self.search < 0,
            f"memory_gb must be above 0, got {self.memory_gb}": self.memory_gb <= 0,
        }
        for problem, found in problems.items():
            if found:
                raise ValueError(f"{problem}.")

    def _neighbourhoods(self, given: Sequence[int] | None) -> tuple[int, ...]:
        side = self.protocol.size // self.clip.patch_size
        if given is None:
            if side >= _SMALL_GRID:
                return (1, 3, 5)
            rank_zero_info(f"MuSc: neighbourhoods of 1 and 3 patches, as the grid is {side} x {side} (r_list).")
            return (1, 3)
        if not given or any(r < 1 or r % 2 == 0 for r in given) or len(set(given)) < len(given):
            raise ValueError(f"r_list must be different odd numbers of patches, got {list(given)}.")
        return tuple(given)

    # ---- features

    def units(self) -> list[Unit]:
        """Return what is scored apart and then averaged: layers with sides of neighbourhoods, or layers alone."""
        sides = (0,) if self.variant == "v2" else self.r_list
        return [(layer, r) for layer in self.layers for r in sides]

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """Return what a panel keeps of images.

        Args:
            image: Normalised images, (batch, 3, height, width).

        Returns:
            ``"tokens.<layer>"``: (batch, patches, width) in the type of ``storage``, normalised as a whole; ``"cls"``:
            (batch, dim) float32 of unit length.
        """
        x, kept = self.clip.run_image(self.clip.embed_image(image.to(self.device)), keep=self.layers)
        found = {"cls": F.normalize(self.clip.project(self.clip.ln_post(x[:, 0])).float(), dim=-1)}
        with torch.autocast(self.device.type, enabled=False):
            for layer, state in kept.items():
                tokens = state[:, 1:].float() if self.variant == "v2" else joint_norm(state[:, 1:])
                found[f"tokens.{layer}"] = tokens.to(getattr(torch, self.storage))
        return found

    def features(self, tokens: Tensor, grid: Grid, unit: Unit) -> Tensor:
        """Return the unit-length features of one unit, (images, patches, width), on the method's device."""
        tokens = tokens.to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            if self.variant == "v2":
                found = similarity_pooled(tokens, grid, self.r_list)
            else:
                found = pooled(tokens, grid, unit[1])
        return found.half() if self.storage == "float16" and self.device.type == "cuda" else found

    def salient_features(self, tokens: Mapping[int, Tensor], patch_scores: Tensor, grid: Grid) -> Tensor | None:
        """Return V2's feature of each image's most suspicious patch, (images, width) float32; None if released."""
        if self.variant != "v2":
            return None
        unit = (self.layers[-2], 0)
        worst = patch_scores.argmax(dim=1).tolist()
        return torch.stack(
            [
                self.features(one[None], grid, unit)[0, patch].float().cpu()
                for one, patch in zip(tokens[unit[0]], worst, strict=True)
            ]
        )

    # ---- scoring

    @torch.no_grad()
    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return maps and scores against the panel of each image's class; those in it have theirs already.

        Raises:
            MissingPanelError: A class has no panel.
            PanelError: The panel's subsets were scored apart, and an image is in none.
        """
        grid, size = self.clip.grid(image), (image.shape[-2], image.shape[-1])
        maps = torch.empty(len(image), *size, device=image.device)
        scores = torch.empty(len(image), device=image.device)
        for name in dict.fromkeys(context.class_names):
            rows = [row for row, one in enumerate(context.class_names) if one == name]
            panel = self.panel(name)
            places = self.places(panel, image[rows], [context.image_paths[row] for row in rows])
            members = [(row, place) for row, place in zip(rows, places, strict=True) if place is not None]
            if members:
                known, inside = [row for row, _ in members], [place for _, place in members]
                maps[known] = self.enlarged(panel.patch_scores[inside].to(maps.device), grid, size)
                scores[known] = self._panel_scores(panel)[inside].to(scores.device)
            new = [row for row, place in zip(rows, places, strict=True) if place is None]
            if new:
                maps[new], scores[new] = self._against(panel, image[new], grid)
        return Prediction(maps, scores)

    def _panel_scores(self, panel: Panel) -> Tensor:
        """Image scores of the panel's own images, (M,)."""
        features = panel.cls if panel.salient is None else panel.salient
        return self._rescored(panel.maxima, features)

    def _rescored(self, scores: Tensor, features: Tensor, known: tuple[Tensor, Tensor] | None = None) -> Tensor:
        return rescore(scores, features, self.rescore_windows, self.rescore_precision, self.rescore_scale, known)

    def _against(self, panel: Panel, image: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Maps and scores of images that are not in the panel."""
        if panel.subsets:
            raise PanelError("With subsets='by_folder_name' only the images that were divided have a score.")
        if self.search is not None and grid != panel.grid:
            raise PanelError(
                f"search={self.search} compares equal places: images of {grid} patches do not go with a panel of "
                f"{panel.grid}."
            )
        found = self.encode(image)
        tokens = {layer: found[f"tokens.{layer}"] for layer in self.layers}
        with torch.autocast(image.device.type, enabled=False):
            patches = torch.stack([self._compared(panel, tokens[unit[0]], grid, unit) for unit in self.units()])
            patches = patches.cpu().double().mean(dim=0).float().to(image.device)
            maps = self.enlarged(patches, grid, (image.shape[-2], image.shape[-1]))
            salient = self.salient_features(tokens, patches, grid)
            features, known = (found["cls"], panel.cls) if salient is None else (salient, panel.salient)
            assert known is not None
            scores = maps.amax(dim=(1, 2))
            if len(panel) == 1:  # a single reference, which has no score to share
                return maps, scores
            to = maps.device
            scores = self._rescored(scores, features.to(to), (panel.maxima.to(to), known.to(to)))
        return maps, scores

    def _compared(self, panel: Panel, tokens: Tensor, grid: Grid, unit: Unit) -> Tensor:
        """Patch scores of images against the panel in one unit, (images, patches)."""
        rows = self.features(tokens, grid, unit)
        held = self._held(panel, unit)
        stored = panel.tokens[unit[0]]

        def some(first: int, stop: int) -> Tensor:
            return self.features(stored[first:stop], panel.grid, unit) if held is None else held[first:stop]

        table = cosine_table(rows, some, len(panel), grid, self.search)
        return interval_mean(table, interval_bounds(self.interval, len(panel)))

    def _held(self, panel: Panel, unit: Unit) -> Tensor | None:
        """The panel's features of a unit, kept if those of all units fit into the working memory."""
        stored = panel.tokens[unit[0]]
        if 4 * stored.numel() * len(self.units()) > self.memory_gb * 1e9:
            return None
        key = (unit, self.device)
        if key not in panel.held:
            panel.held[key] = torch.cat([self.features(part, panel.grid, unit) for part in stored.split(8)])
        return panel.held[key]

    def enlarged(self, patch_scores: Tensor, grid: Grid, size: tuple[int, int]) -> Tensor:
        """Return maps (images, height, width) of patch scores (images, patches)."""
        return upsample(to_grid(patch_scores, grid), size, align_corners=True)

    def panel_settings(self) -> dict[str, Any]:
        """Return what a panel's numbers depend on, as JSON values."""
        return {
            **super().panel_settings(),
            "layers": list(self.layers),
            "r_list": list(self.r_list),
            "interval": list(self.interval),
            "variant": self.variant,
            "storage": self.storage,
            "search": self.search,
        }


def released_activation(backbone: str, image_size: int | None) -> Activation | None:
    """Return the activation with which the released factory runs a backbone.

    At another size than the weights' own it builds the model anew, without QuickGELU; at their own it keeps what the
    weights were trained with.

    Args:
        backbone: Name for :func:`zsad.clip.load_clip`.
        image_size: Side in pixels; None as for :class:`~zsad.methods.base.Method`.
    """
    model, _, tag = backbone.partition("/")
    config = open_clip.get_model_config(model)
    if backbone in EMBEDDED or config is None:
        return None
    native = config["vision_cfg"].get("image_size", 224)
    if image_size is None:
        published = MuSc.published_backbone.partition("/")[0]
        image_size = MuSc.published_protocol.size if model.removesuffix("-quickgelu") == published else native
    trained = bool((open_clip.get_pretrained_cfg(model, tag) or {}).get("quick_gelu", False))
    return "quick_gelu" if trained and image_size == native else "gelu"


def _layers(given: Sequence[int] | None, clip: Clip) -> tuple[int, ...]:
    """The blocks to compare, ascending."""
    if given is None:
        return tuple(sorted({max(1, clip.depth * stage // 4) for stage in (1, 2, 3, 4)}))
    layers = tuple(sorted(set(given)))
    if not layers or len(layers) < len(given) or layers[0] < 1 or layers[-1] > clip.depth:
        raise ValueError(f"layers must be different blocks of 1 to {clip.depth}, got {list(given)}.")
    return layers
