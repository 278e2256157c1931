"""MaskCLIP: dense features from the value path of the last block."""

from typing import Any

from torch import Tensor

from zsad.clip import Clip
from zsad.clip.blocks import after_attention, full, value
from zsad.methods.clip import CLIP
from zsad.types import ImageProtocol


class MaskCLIP(CLIP):
    """Score like :class:`CLIP`, but patches take the last block's value path, which mixes no tokens.

    The image score is CLIP's own. The published rows (AnoVL, arXiv 2308.15939, table 1; ALFA, table 1) do not state
    their prompts; WinCLIP's ensemble is used here. Fidelity is by definition (MaskCLIP, arXiv 2112.01071, section 3.2).

    Args:
        backbone: Backbone name or a loaded one.
        prompts: Packaged prompt list or YAML file.
        temperature: Divisor of the cosines before the softmax.
        residual: True keeps the block's residual sum and MLP, as the MaskCLIP repository does; False takes the pure
            value features that many later papers mean.
        **kwargs: Options of :class:`CLIP`.
    """

    published_backbone = "ViT-B-16-plus-240/laion400m_e32"
    published_protocol = ImageProtocol(size=240)

    def __init__(
        self,
        backbone: str | Clip = published_backbone,
        prompts: str = "winclip",
        temperature: float = 0.01,
        residual: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, prompts, temperature=temperature, **kwargs)
        self.residual = residual

    def image_tokens(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return CLIP's global embedding (batch, dim) and value-path patch embeddings (batch, patches, dim)."""
        depth = self.clip.depth
        embedded = self.clip.embed_image(image)
        # the state before the last block is the one after block depth - 1, or the input of a tower of one block
        last, kept = self.clip.run_image(embedded, keep=(depth - 1,) if depth > 1 else ())
        before = kept.get(depth - 1, embedded)
        block: Any = self.clip.model.visual.transformer.resblocks[-1]
        patches = value(block, before)
        if self.residual:
            dtype = block.ln_1.weight.dtype
            patches = full(after_attention(block, before.to(dtype), patches.to(dtype)))
        project, norm = self.clip.project, self.clip.ln_post
        return project(norm(last[:, 0])), project(norm(patches[:, 1:]))
