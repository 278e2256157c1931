"""AnoVL: V-V attention tokens against averaged domain-aware prompts, with an adapter trained on each test image."""

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.clip import Clip
from zsad.clip.blocks import SideAttention, TwoPath, two_path
from zsad.functional.maps import probability, similarity, to_grid, upsample
from zsad.methods.anovl.adaptation import Activation, OptimizerState, PseudoLoss, Recipe, train
from zsad.methods.anovl.options import VARIANTS, choose_prompts, one_of
from zsad.methods.anovl.tiles import TilePixels, merge_tiles, square_tiles
from zsad.methods.anovl.views import augmented_views
from zsad.methods.base import Method
from zsad.methods.prototypes import average, encode_sides
from zsad.prompts import ClassWords, load_prompts
from zsad.types import Context, ImageProtocol, Prediction

_TOGETHER = 8  # images of all views in one pass: bounds the memory


class AnoVL(Method):
    """Locate defects with V-V attention tokens, and score the image by its class token over augmented views.

    ``adapter="none"``, the default, is the training-free part (TFA): fast, exportable, the same for an image whatever
    its path. ``adapter="text"`` adds the paper's test-time adaptation (TTA): for every image an adapter of the patch
    tokens starts afresh and is trained for a few steps on that image alone, which changes the map only. Its random
    numbers depend on the seed and the image's path. Values lie in [0.119, 0.881], mostly near 0.5: rank them, never
    threshold at 0.5. Paper: Deng et al., "AnoVL" (arXiv 2308.15939), sections 3.1 to 3.4.

    Options whose default is None take the value of ``variant`` or follow ``adapter`` and ``tiling``.

    Args:
        backbone: Backbone name or a loaded one.
        variant: What to follow where paper and released code differ (:data:`VARIANTS`); the published numbers are
            those of the released code.
        tokens: Patch tokens: ``"vv"`` the V-V path, ``"qkv"`` ordinary CLIP, ``"v"`` values alone (table 3).
        vv_blocks: Number of blocks with a V-V path, counted from the end; capped at the backbone's depth.
        vv_input: Where values come from: the ordinary stream (released code) or the V-V stream itself (equation 7).
        views: Views averaged for the image score: the 22 of the released MVTec AD script, the image alone (paper), or
            the ``"tiles"``.
        tiling: Cut images that are wider than high into two square tiles, as the released VisA script does; images
            keep their aspect ratio and come in batches of one.
        prompt_set: ``"full"`` all domains and states, ``"states"`` the generic domain with all states, ``"base"`` the
            generic domain with "normal" and "abnormal" only (table 4).
        prompts: Packaged prompt list or YAML file.
        class_words: How class names are spelled in prompts; the released code takes them raw.
        temperature: Divisor of the cosines; 1 in the released code, CLIP's own scale is not used.
        pool: Side in patches of the average pool on the patch map, odd.
        normalise_prompts: Give each prompt unit length before the mean; the released code does not.
        adapter: ``"none"``, ``"text"`` (through the prompts' features) or ``"linear"`` (VisA script; table 5).
        activation: What follows the adapter's linear layer; none for ``adapter="linear"``.
        bias: Whether that layer has a bias.
        adapter_init: First weights: ``"random"``, or ``"text"`` the prompts' features (equation 9).
        noise_at: Whether noise enters before the adapter or after it.
        noise_std: Standard deviation of the noise.
        pseudo_loss: See :class:`~zsad.methods.anovl.adaptation.Recipe`.
        entropy_weight: Weight of that loss.
        discriminative_weight: Weight of the loss that tells clean from noisy tokens.
        loss_at: Average losses over patches, or over the pixels of the enlarged cosines, tiles merged.
        epochs: Training steps per image.
        lr: AdamW's rate.
        betas: AdamW's decay rates of the moments.
        eps: AdamW's summand in the denominator.
        weight_decay: AdamW's decoupled decay.
        optimizer_state: ``"reset"`` starts each image's optimiser afresh; ``"carry"`` hands its state from image to
            image of a class, as the released code does, so results depend on the order of images.
        seed: Decides first weights and noise, together with the image's path.
        **kwargs: Options of :class:`~zsad.methods.base.Method`.
    """

    published_backbone = "ViT-B-16-plus-240/laion400m_e32"
    published_protocol = ImageProtocol(size=240, interpolation="bilinear")

    def __init__(
        self,
        backbone: str | Clip = published_backbone,
        variant: Literal["released", "paper"] = "released",
        tokens: Literal["vv", "qkv", "v"] = "vv",
        vv_blocks: int = 12,
        vv_input: Literal["stream", "self"] | None = None,
        views: Literal["22", "tiles", "none"] | None = None,
        tiling: bool = False,
        prompt_set: Literal["full", "states", "base"] = "full",
        prompts: str = "anovl",
        class_words: ClassWords = "raw",
        temperature: float = 1.0,
        pool: int = 3,
        normalise_prompts: bool = False,
        adapter: Literal["none", "text", "linear"] = "none",
        activation: Activation | None = None,
        bias: bool | None = None,
        adapter_init: Literal["random", "text"] | None = None,
        noise_at: Literal["input", "output"] | None = None,
        noise_std: float = 0.055,
        pseudo_loss: PseudoLoss | None = None,
        entropy_weight: float = 1.0,
        discriminative_weight: float = 0.5,
        loss_at: Literal["patch", "pixel"] | None = None,
        epochs: int = 5,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        optimizer_state: Literal["reset", "carry"] = "reset",
        seed: int = 111,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        one_of("variant", variant, VARIANTS)
        preset = VARIANTS[variant] | ({"views": "tiles"} if tiling else {})
        if adapter == "linear":  # no prompts in it, so neither their activation nor their values as first weights
            preset |= {"activation": "none", "adapter_init": "random"}
        self.vv_input: Literal["stream", "self"] = vv_input or preset["vv_input"]
        self.views = views or preset["views"]
        self.adapter_init = adapter_init or preset["adapter_init"]
        self.loss_at = loss_at or ("pixel" if tiling else "patch")
        one_of("tokens", tokens, ("vv", "qkv", "v"))
        one_of("vv_input", self.vv_input, ("stream", "self"))
        one_of("views", self.views, ("22", "tiles", "none"))
        one_of("adapter", adapter, ("none", "text", "linear"))
        one_of("adapter_init", self.adapter_init, ("random", "text"))
        one_of("loss_at", self.loss_at, ("patch", "pixel"))
        one_of("optimizer_state", optimizer_state, ("reset", "carry"))
        if vv_blocks < 1:
            raise ValueError(f"vv_blocks must be at least 1, got {vv_blocks}; tokens='qkv' turns the V-V path off.")
        if pool < 1 or pool % 2 == 0:
            raise ValueError(f"pool must be an odd number of patches, got {pool}; 1 turns it off.")
        if (self.views == "tiles") != tiling:
            raise ValueError(
                f"views='tiles' and tiling=True belong together, got views='{self.views}', tiling={tiling}."
            )
        if adapter == "linear" and self.adapter_init == "text":
            raise ValueError("adapter_init='text' needs adapter='text': a linear adapter has no rows for the prompts.")
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs}; adapter='none' turns the adaptation off.")
        if noise_std < 0:
            raise ValueError(f"noise_std must be >= 0, got {noise_std}.")
        self.prompts, self.domains = choose_prompts(load_prompts(prompts), prompt_set)
        self.tokens = tokens
        self.first_block = max(1, self.clip.depth - vv_blocks + 1)
        self.tiling = tiling
        if tiling:
            self.protocol = replace(self.protocol, resize="short_side")
        self.class_words: ClassWords = class_words
        self.temperature, self.pool, self.normalise_prompts = temperature, pool, normalise_prompts
        self.adapter, self.epochs, self.optimizer_state, self.seed = adapter, epochs, optimizer_state, seed
        self.bias = preset["bias"] if bias is None else bias
        self.noise_std = noise_std
        self.recipe = Recipe(
            activation=activation or preset["activation"],
            noise_at=noise_at or preset["noise_at"],
            pseudo_loss=pseudo_loss or preset["pseudo_loss"],
            entropy_weight=entropy_weight,
            discriminative_weight=discriminative_weight,
            temperature=temperature,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
        )
        self._rows: dict[str, Tensor] = {}
        self._carried: dict[str, OptimizerState] = {}

    # ---- text

    def text_features(self, class_names: Sequence[str]) -> Tensor:
        """Return the state vectors of each class, (classes, 2, dim): the mean of raw embeddings, then unit length."""
        sides = encode_sides(self.clip, self.prompts, class_names, self.class_words, self.domains)
        if self.adapter == "text":
            units = [F.normalize(torch.cat(pair).float(), dim=-1) for pair in sides]
            self._rows.update(zip(class_names, units, strict=True))
        return average(sides, normalise_prompts=self.normalise_prompts)

    def prompt_features(self, class_name: str) -> Tensor:
        """Return each prompt's unit-length embedding, (prompts, dim): first all normal ones; text adapter only."""
        if class_name not in self._rows:
            with torch.no_grad():
                self.text_features([class_name])
        return self._rows[class_name]

    def forget_text(self) -> None:
        """Drop the text caches."""
        super().forget_text()
        if hasattr(self, "_rows"):
            self._rows.clear()

    # ---- images

    def image_tokens(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the global embedding (batch, dim) and the patch tokens (batch, patches, dim), not normalised."""
        kind: SideAttention = "v" if self.tokens == "v" else "vv"
        step = None if self.tokens == "qkv" else two_path(self.first_block, (kind,), self.vv_input, self.clip.depth)
        state, _ = self.clip.run_image(self.clip.embed_image(image), step)
        main, side = (state.main, state.side[0]) if isinstance(state, TwoPath) else (state, state)
        project, norm = self.clip.project, self.clip.ln_post
        return project(norm(main[:, 0])), project(norm(side[:, 1:]))

    def patch_map(self, patches: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the pooled probability of "abnormal" per patch, (batch, rows, columns); section 3.3."""
        prob = to_grid(probability(similarity(patches, text), self.temperature), grid)
        margin = self.pool // 2
        padded = F.pad(prob[:, None], (margin,) * 4, mode="replicate")
        return F.avg_pool2d(padded, self.pool, stride=1)[:, 0]

    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return the enlarged patch map and the mean over views of the class token's probability of "abnormal"."""
        parts = square_tiles(image, context.image_paths) if self.tiling else image[:, None]
        batch, number = parts.shape[:2]
        grid = self.clip.grid(parts)
        cls, patches = self.image_tokens(parts.flatten(0, 1))
        if self.adapter != "none":
            tokens = patches.unflatten(0, (batch, number)).flatten(1, 2)
            tokens = self.adapt(tokens, text, grid, image.shape[-1], context)
            patches = tokens.unflatten(1, (number, -1)).flatten(0, 1)
        patch_map = self.patch_map(patches, text.repeat_interleave(number, dim=0), grid)
        size = (parts.shape[-2], parts.shape[-1])
        maps = upsample(patch_map, size, align_corners=True).unflatten(0, (batch, number))
        return Prediction(
            anomaly_map=merge_tiles(maps, image.shape[-1]),
            pred_score=self.view_probability(image, cls.unflatten(0, (batch, number)), text).mean(dim=1),
        )

    def export_obstacle(self) -> str | None:
        """Return why there is no graph with these options."""
        if self.adapter != "none":
            return f"adapter='{self.adapter}' trains on each image; take adapter='none'."
        if self.views == "22" and self.hparams["views"] is None:
            return "its 22 views are 23 times the work; take views='none', or ask for them by name with views='22'."
        return None

    def view_probability(self, image: Tensor, cls: Tensor, text: Tensor) -> Tensor:
        """Return the probability of "abnormal" per view, (batch, views); the first are those of ``cls``.

        Args:
            image: Normalised images, (batch, 3, height, width).
            cls: Embedding of the image itself, (batch, dim), or of its tiles, (batch, tiles, dim).
            text: Text vectors of each image's class, (batch, 2, dim).
        """
        embeddings = [cls if cls.ndim == 3 else cls[:, None]]
        if self.views == "22":
            views = augmented_views(image)
            together = (
                1 if torch.compiler.is_exporting() else max(1, _TOGETHER // len(image))
            )  # an export has any batch
            while group := list(itertools.islice(views, together)):
                cls = self.clip.encode_image(torch.cat(group)).cls  # the V-V path is not needed here
                embeddings.append(cls.unflatten(0, (len(group), -1)).transpose(0, 1))
        return probability(similarity(torch.cat(embeddings, dim=1), text), self.temperature)

    # ---- test-time adaptation

    def adapt(self, tokens: Tensor, text: Tensor, grid: tuple[int, int], width: int, context: Context) -> Tensor:
        """Return the tokens of each image after an adapter that was trained on them, (batch, n, dim) float32.

        Images that may be trained at the same time are: with ``optimizer_state="carry"`` one of each class, in order.

        Args:
            tokens: Patch tokens of each image, all tiles one after the other, (batch, tiles * patches, dim).
            text: Text vectors of each image's class, (batch, 2, dim).
            grid: Rows and columns of patches of a tile.
            width: Width in pixels of the images.
            context: Class names and paths.
        """
        pixels = self.pixels(grid, width)
        adapted = torch.empty_like(tokens, dtype=torch.float32)
        for wave in self._waves(context.class_names):
            names = [context.class_names[i] for i in wave]
            starts = [self.draw(context.image_paths[i], names[k], tokens[i].shape) for k, i in enumerate(wave)]
            weight, bias, noise = ([start[part] for start in starts] for part in range(3))
            adapted[wave], states = train(
                noise=torch.stack(noise, dim=1).to(tokens.device),
                tokens=tokens[wave],
                text=text[wave],
                weight=torch.stack(weight).to(tokens.device),
                bias=torch.stack(bias).to(tokens.device) if self.bias else None,
                rows=torch.stack([self.prompt_features(name) for name in names]) if self.adapter == "text" else None,
                recipe=self.recipe,
                pixels=pixels,
                states=[self._carried.get(name, []) for name in names] if self.optimizer_state == "carry" else None,
            )
            if self.optimizer_state == "carry":
                self._carried.update(zip(names, states, strict=True))
        return adapted

    def pixels(self, grid: tuple[int, int], width: int) -> Callable[[Tensor], Tensor] | None:
        """Return what brings cosines of patches to the places over which losses average; None for patches."""
        return TilePixels(grid, self.clip.patch_size, width) if self.loss_at == "pixel" else None

    def draw(self, image_path: str, class_name: str, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return an image's first weight (rows, dim), first bias (rows,) and noise (epochs, n, dim), on the CPU.

        They depend on the seed and the path alone, not on the device, the batch or what else draws random numbers.

        Args:
            image_path: Path of the image.
            class_name: Its class.
            shape: (n, dim) of its tokens.
        """
        dim = shape[-1]
        stream = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}:{image_path}".encode()))
        rows = self.prompt_features(class_name).cpu() if self.adapter == "text" else None
        if self.adapter_init == "text":
            assert rows is not None  # the constructor refuses it for a linear adapter
            weight, bias = rows, torch.zeros(len(rows))
        else:  # torch.nn.Linear's own first values
            count, bound = dim if rows is None else len(rows), dim**-0.5
            weight, bias = (
                torch.empty(size).uniform_(-bound, bound, generator=stream) for size in ((count, dim), count)
            )
        noise = torch.empty(self.epochs, *shape).normal_(generator=stream) * self.noise_std
        return weight, bias, noise

    def _waves(self, class_names: Sequence[str]) -> Iterator[list[int]]:
        """Yield images to train side by side: equally many prompts, and one per class if states are carried over."""
        waves: dict[tuple[int, int], list[int]] = {}
        for index, name in enumerate(class_names):
            turn = list(class_names[:index]).count(name) if self.optimizer_state == "carry" else 0
            rows = len(self.prompt_features(name)) if self.adapter == "text" else 0
            waves.setdefault((turn, rows), []).append(index)
        yield from (waves[key] for key in sorted(waves))

    def on_test_epoch_start(self) -> None:
        """Forget cached text, earlier results and carried optimiser states."""
        super().on_test_epoch_start()
        self._carried.clear()

    def on_validation_epoch_start(self) -> None:
        """Forget cached text, earlier results and carried optimiser states."""
        super().on_validation_epoch_start()
        self._carried.clear()

    def on_predict_epoch_start(self) -> None:
        """Forget cached text and carried optimiser states."""
        super().on_predict_epoch_start()
        self._carried.clear()
