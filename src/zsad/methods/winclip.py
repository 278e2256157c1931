"""WinCLIP and WinCLIP+: windows of patches against prompt ensembles, with normal reference images if there are any."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.clip import Clip
from zsad.clip.blocks import Step, after_attention, merge_heads, qkv, whole
from zsad.functional.maps import probability, similarity, to_grid, upsample
from zsad.functional.windows import harmonic_mean, window_indices, window_map, window_tokens
from zsad.methods.ensemble import PromptEnsemble
from zsad.types import Context, ImageProtocol, Prediction


class WindowTokens(NamedTuple):
    """What WinCLIP takes from the image tower, nothing normalised."""

    cls: Tensor
    """(batch, dim) global embedding."""
    patches: Tensor
    """(batch, patches, width) tokens of the last block after ``ln_post``, not projected."""
    windows: dict[int, Tensor]
    """Scale -> (batch, windows, dim) projected class token of each window's own pass."""


class WinCLIP(PromptEnsemble):
    """Score sliding windows of patches against "normal" and "anomalous" prompt ensembles, harmonically averaged.

    Each window is a forward pass of the class token and the window's own patches. With references (see
    :class:`~zsad.methods.few_shot.FewShot`) it is WinCLIP+: maps and scores are averaged with distances to normal
    windows and patches. No official code exists; where public versions differ this follows the one most used: prompts
    are averaged without giving them unit length, temperature 0.07, patch features after the last LayerNorm.

    Paper: Jeong et al., "WinCLIP" (arXiv 2303.14814), sections 4.1 to 4.3.

    Args:
        backbone: Backbone name or a loaded one.
        scales: Sides of the windows in patches.
        prompts: Packaged prompt list (``"winclip"``; ``"winclip_22"`` without its duplicate template) or YAML file.
        normalise_prompts: Give each prompt embedding unit length before the mean.
        chunk: Windows in one forward pass, which bounds the memory; the result does not depend on it.
        **kwargs: Options of :class:`~zsad.methods.ensemble.PromptEnsemble`.
    """

    published_backbone = "ViT-B-16-plus-240/laion400m_e31"
    published_protocol = ImageProtocol(size=240)
    few_shot_in_score = True

    def __init__(
        self,
        backbone: str | Clip = published_backbone,
        scales: Sequence[int] = (2, 3),
        prompts: str = "winclip",
        normalise_prompts: bool = False,
        chunk: int | None = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, prompts, normalise_prompts=normalise_prompts, **kwargs)
        if not scales or len(set(scales)) < len(scales) or min(scales) < 1:
            raise ValueError(f"scales must be different window sides of at least 1 patch, got {list(scales)}.")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1 window, got {chunk}; None takes all windows at once.")
        self.scales = tuple(scales)
        self.chunk = chunk

    def image_tokens(self, image: Tensor) -> WindowTokens:
        """Return the embeddings of the image, its patches and its windows; see :class:`WindowTokens`."""
        clip, grid = self.clip, self.clip.grid(image)
        embedded = clip.embed_image(image, ln_pre=False)
        last, _ = clip.run_image(clip.ln_pre(embedded))
        last = clip.ln_post(last)
        step = class_token_only(clip.depth)
        windows = {}
        for scale in self.scales:
            index = window_indices(grid, scale, image.device)
            states = [clip.run_image(clip.ln_pre(x), step)[0] for x in window_tokens(embedded, index, self.chunk)]
            cls = clip.project(clip.ln_post(torch.cat(states)[:, 0]))
            windows[scale] = cls.unflatten(0, (-1, len(index)))  # not len(image): an export would fix it
        return WindowTokens(clip.project(last[:, 0]), last[:, 1:], windows)

    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return the enlarged map and the image score, both probabilities; averaged with distances if few-shot."""
        tokens, grid = self.image_tokens(image), self.clip.grid(image)
        score = probability(similarity(tokens.cls, text), self.temperature)
        anomaly_map = self.text_map(tokens, score, text, grid)
        if self.is_few_shot(context.class_names):
            distance = torch.stack(list(self.distance_maps(tokens, context.class_names, grid).values())).mean(dim=0)
            anomaly_map = (anomaly_map + distance) / 2
            score = (score + distance.amax(dim=(1, 2))) / 2
        return Prediction(upsample(anomaly_map, (image.shape[-2], image.shape[-1]), self.align_corners), score)

    def scale_map(self, windows: Tensor, text: Tensor, grid: tuple[int, int], scale: int) -> Tensor:
        """Return the harmonic mean of the probabilities of the windows over each patch, (batch, rows, columns)."""
        return window_map(probability(similarity(windows, text), self.temperature), grid, scale)

    def text_map(self, tokens: WindowTokens, score: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the harmonic mean of the image score and all scales' maps, (batch, rows, columns)."""
        maps = [self.scale_map(windows, text, grid, scale) for scale, windows in tokens.windows.items()]
        return harmonic_mean([score[:, None, None], *maps])

    def distance_maps(
        self, tokens: WindowTokens, class_names: Sequence[str], grid: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return the distances to the references as maps, kind -> (batch, rows, columns) in [0, 1]; section 4.3.

        Kinds are ``"patch"`` and ``"scale2"``, ``"scale3"`` and so on, the latter harmonic means over windows.
        """
        maps = {"patch": to_grid(self.memory.distance("patch", tokens.patches, class_names) / 2, grid)}
        for scale, windows in tokens.windows.items():
            kind = f"scale{scale}"
            maps[kind] = window_map(self.memory.distance(kind, windows, class_names) / 2, grid, scale)
        return maps

    def reference_features(self, image: Tensor) -> dict[str, Tensor]:
        """Return patch and window embeddings, kind -> (batch, positions, dim)."""
        tokens = self.image_tokens(image)
        return {"patch": tokens.patches} | {f"scale{scale}": windows for scale, windows in tokens.windows.items()}


def class_token_only(depth: int) -> Step:
    """Return the step of ordinary CLIP whose last block computes the class token alone, (batch, 1, width).

    Nothing else of a window is read, and the last block's MLP over all tokens is a twelfth of the work.
    """

    def step(number: int, block: Any, x: Tensor) -> Tensor:
        if number < depth:
            return whole(block, x)
        q, k, v = qkv(block, block.ln_1(x))
        out = F.scaled_dot_product_attention(q[:, :, :1], k, v)
        return after_attention(block, x[:, :1], merge_heads(block, out))

    return step
