"""The one CLIP wrapper that all methods share: frozen, any image size, raw tokens with norm and projection apart."""

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from zsad.clip.blocks import State, Step, TwoPath, full, plain, run
from zsad.clip.embedded import EMBEDDED
from zsad.clip.tensor_store import Digests, tower_key
from zsad.clip.text_store import TextStore, entry_key, tower_hash
from zsad.types import Tokens

Position = Literal["bicubic", "bicubic_plain", "bilinear"]
"""How a position table is resized to another grid; see :class:`Clip`."""

Precision = Literal["32", "bf16", "fp16"]
"""Of the blocks of both towers; everything before and after them stays float32."""

_DTYPES = {"32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_WANTED = "an open_clip.CLIP with a Vision Transformer that has a class token and a plain causal text tower"


class UnsupportedModelError(ValueError):
    """The model has a tower that the methods' formulas do not describe."""


def _check(model: nn.Module, name: str) -> None:
    reasons = {
        "its text tower is a module of its own (custom_text)": not isinstance(model, open_clip.CLIP),
        "its image tower is no plain Vision Transformer": not hasattr(
            getattr(model, "visual", None), "class_embedding"
        ),
    }
    if not any(reasons.values()):
        visual: Any = model.visual
        text: Any = model
        reasons = {
            "its image tower pools by attention": visual.attn_pool is not None,
            f"its image tower pools by '{visual.pool_type}', not by the class token": visual.pool_type != "tok",
            "its image tower normalises after pooling": bool(visual.final_ln_after_pool),
            "its blocks are not plain residual attention blocks": any(
                type(block) is not open_clip.transformer.ResidualAttentionBlock
                for block in [*visual.transformer.resblocks, *text.transformer.resblocks]
            ),
            f"its text tower pools by '{text.text_pool_type}', not at the end token": text.text_pool_type != "argmax",
            "its text tower has no causal mask": text.attn_mask is None,
            "it has no image projection": visual.proj is None,
        }
    for reason, applies in reasons.items():
        if applies:
            raise UnsupportedModelError(f"Model '{name}' is not supported: {reason}. zsad needs {_WANTED}.")


def _as(blocks: Any, x: Tensor) -> Tensor:
    """Return tokens in the precision of the blocks; what autocast does is autocast's business."""
    dtype: torch.dtype = blocks[0].ln_1.weight.dtype
    return x.to(dtype) if dtype in (torch.bfloat16, torch.float16) else x


def _full(state: State) -> State:
    """Return a state in float32, if it is in half precision."""
    if isinstance(state, TwoPath):
        return TwoPath(full(state.main), tuple(full(one) for one in state.side))
    return full(state)


def _forget_tables(module: Any, keys: Any) -> None:
    """Drop what was resized from the weights before; a function of the module, so that a Clip can be pickled."""
    module._tables.clear()
    module._digests.clear()


class Clip(nn.Module):
    """A frozen CLIP that gives tokens of any block, at any image size.

    The wrapper never changes a weight: the position table is resized per image grid and cached beside the model.

    Args:
        model: The open_clip model; its parameters are frozen in place.
        name: What to call it in messages, checkpoints and results.
        position: How the position table is resized to another grid: ``"bicubic"`` with antialiasing, as open_clip
            does on loading (AA-CLIP, VAND, AnoVL), ``"bicubic_plain"`` without it (MuSc; another kernel, a = -0.75 for
            a = -0.5, so tables differ when enlarged as well), or plain ``"bilinear"`` (AnomalyCLIP).

    Raises:
        UnsupportedModelError: If a tower is not the plain transformer that the methods' formulas describe.
    """

    def __init__(self, model: nn.Module, name: str = "custom", position: Position = "bicubic") -> None:
        super().__init__()
        _check(model, name)
        if position not in get_args(Position):
            raise ValueError(f"position must be 'bicubic', 'bicubic_plain' or 'bilinear', got '{position}'.")
        self.model: Any = model
        self.name = name
        self.position: Position = position
        self.precision: Precision = "32"
        self.text_store: TextStore | None = None
        """Where :meth:`encode_prompts` keeps what it computes; None keeps nothing. :func:`zsad.load_model` sets it."""
        self._digests = Digests()
        self._tables: dict[tuple[int, int], Tensor] = {}
        self.register_load_state_dict_post_hook(_forget_tables)
        self.requires_grad_(False)
        self.eval()

    def cast(self, precision: Precision) -> Self:
        """Round the weights of the blocks of both towers, once and in place; states are float32 outside the blocks.

        Raises:
            ValueError: The precision is unknown, or the weights are rounded already.
        """
        if precision not in _DTYPES:
            raise ValueError(f"precision must be one of {list(_DTYPES)}, got '{precision}'.")
        if precision != self.precision:
            if self.precision != "32":
                raise ValueError(f"'{self.name}' was rounded to {self.precision}: load it again for '{precision}'.")
            for tower in (self.model.visual.transformer, self.model.transformer):
                tower.to(_DTYPES[precision])
            self._digests.clear()
            self.precision = precision
        return self

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode whatever the caller's mode is: the backbone is frozen."""
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._digests.clear()
        self._tables.clear()  # device or dtype is about to change
        return super()._apply(fn, recurse)

    def weights_key(self) -> str:
        """Return a hash of both towers' weights and structure; weights that stay as they are, are hashed once."""
        return tower_key(self.model, {}, self._digests)

    @property
    def embedded(self) -> bool:
        """Whether the weights ship with the package, and are under its licence."""
        return self.name in EMBEDDED

    @property
    def depth(self) -> int:
        """Number of image blocks."""
        return len(self.model.visual.transformer.resblocks)

    @property
    def text_depth(self) -> int:
        """Number of text blocks."""
        return len(self.model.transformer.resblocks)

    @property
    def width(self) -> int:
        """Width of the image tokens before projection."""
        return int(self.model.visual.class_embedding.shape[0])

    @property
    def text_width(self) -> int:
        """Width of the text tokens before projection."""
        return int(self.model.positional_embedding.shape[1])

    @property
    def dim(self) -> int:
        """Size of the joint embedding."""
        return int(self.model.visual.proj.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights of the image blocks."""
        found: torch.dtype = self.model.visual.transformer.resblocks[0].ln_1.weight.dtype
        return found

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.model.visual.conv1.stride[0])

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the model was trained on."""
        return int(self.model.visual.grid_size[0]) * self.patch_size

    @property
    def logit_scale(self) -> Tensor:
        """The learned inverse temperature (100 for OpenAI's models), scalar."""
        return self.model.logit_scale.exp()

    @property
    def causal_mask(self) -> Tensor:
        """(context, context) additive mask of the text tower."""
        return self.model.attn_mask

    # ---- images

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Return rows and columns of patches of an image batch (batch, 3, height, width).

        Raises:
            ValueError: If a side is not a multiple of the patch size.
        """
        height, width, patch = image.shape[-2], image.shape[-1], self.patch_size
        if height % patch or width % patch or not height or not width:
            raise ValueError(
                f"Image size {height} x {width} is not a multiple of the patch size {patch} of '{self.name}'; "
                f"use for example {max(patch, round(height / patch) * patch)} pixels."
            )
        return height // patch, width // patch

    def position_table(self, grid: tuple[int, int]) -> Tensor:
        """Return the position embeddings (1 + rows * columns, width), always computed from the native table."""
        table: Tensor = self.model.visual.positional_embedding
        native = tuple(self.model.visual.grid_size)
        if grid == native:
            return table
        if grid not in self._tables:
            # outside inference mode: a cached inference tensor could not take part in training later
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(table.device.type, enabled=False):
                spatial = table[1:].detach().T.reshape(1, -1, *native).float()
                mode, antialias = self.position.removesuffix("_plain"), self.position == "bicubic"
                spatial = F.interpolate(spatial, size=grid, mode=mode, antialias=antialias, align_corners=False)
                resized = torch.cat([table[:1].detach(), spatial.flatten(2)[0].T.to(table.dtype)])
            self._tables[grid] = resized
        return self._tables[grid]

    def embed_image(self, image: Tensor, ln_pre: bool = True) -> Tensor:
        """Return the input of block 1: class token, then patches row by row, (batch, 1 + patches, width).

        Args:
            image: Normalised images, (batch, 3, height, width), sides multiples of the patch size.
            ln_pre: Whether to apply the first LayerNorm (WinCLIP selects tokens before it).
        """
        visual = self.model.visual
        table = self.position_table(self.grid(image))
        patches = visual.conv1(image.to(visual.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        cls = visual.class_embedding.to(patches.dtype).expand(image.shape[0], 1, -1)
        x = torch.cat([cls, patches], dim=1) + table.to(patches.dtype)
        return self.ln_pre(x) if ln_pre else x

    def run_image(
        self, x: Tensor, step: Step | None = None, keep: Collection[int] = ()
    ) -> tuple[State, dict[int, State]]:
        """Run the image blocks on embedded tokens; see :func:`zsad.clip.blocks.run`.

        Raises:
            ValueError: If ``keep`` names a block that the tower does not have.
        """
        wrong = [number for number in keep if not 1 <= number <= self.depth]
        if wrong:
            raise ValueError(f"'{self.name}' has image blocks 1 to {self.depth}, got layers {sorted(keep)}.")
        blocks = self.model.visual.transformer.resblocks
        state, kept = run(blocks, _as(blocks, x), plain() if step is None else step, keep)
        return _full(state), {number: _full(one) for number, one in kept.items()}

    def ln_pre(self, x: Tensor) -> Tensor:
        """Apply the image tower's first LayerNorm, any shape (..., width)."""
        return self.model.visual.ln_pre(x)

    def ln_post(self, x: Tensor) -> Tensor:
        """Apply the image tower's last LayerNorm, any shape (..., width)."""
        return self.model.visual.ln_post(x)

    def project(self, x: Tensor) -> Tensor:
        """Apply the image projection, (..., width) -> (..., dim)."""
        return x @ self.model.visual.proj

    def encode_image(self, image: Tensor, layers: Collection[int] = ()) -> Tokens:
        """Return the global embedding and the projected patch tokens after the given blocks (ordinary attention).

        Args:
            image: Normalised images, (batch, 3, height, width).
            layers: Block numbers from 1.
        """
        step = plain(narrow=0 if self.depth in layers else self.depth)
        x, kept = self.run_image(self.embed_image(image), step, keep=layers)
        patches = {number: self.project(self.ln_post(state[:, 1:])) for number, state in kept.items()}
        return Tokens(self.project(self.ln_post(x[:, 0])), patches)

    # ---- text

    @cached_property
    def tokenizer(self) -> open_clip.SimpleTokenizer:
        """open_clip's tokenizer; made when it is first needed, which takes a tenth of a second."""
        return open_clip.SimpleTokenizer(context_length=self.model.context_length)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return token ids (texts, context) on the model's device."""
        return self.tokenizer(list(texts)).to(self.model.positional_embedding.device)

    def embed_text(self, ids: Tensor) -> Tensor:
        """Return token embeddings without positions, (texts, length, text width), for learned contexts to replace."""
        return self.model.token_embedding(ids)

    def run_text(self, x: Tensor, ids: Tensor, step: Step | None = None) -> Tensor:
        """Return the last LayerNorm's output at each text's end token, (texts, text width), before projection.

        Args:
            x: Token embeddings without positions, (texts, length, text width); ``length`` may be cut after the last
                end token, which is exact because the tower is causal.
            ids: Token ids (texts, length); the end token is the greatest id of each row.
            step: What a block does; ordinary masked attention by default.
        """
        length = x.shape[1]
        x = x + self.model.positional_embedding[:length].to(x.dtype)
        blocks = self.model.transformer.resblocks
        x, _ = run(blocks, _as(blocks, x), plain(self.causal_mask[:length, :length]) if step is None else step)
        x = full(x)
        return self.model.ln_final(x[torch.arange(len(x), device=x.device), ids.argmax(dim=-1)])

    def project_text(self, x: Tensor) -> Tensor:
        """Apply the text projection, (..., text width) -> (..., dim)."""
        projection = self.model.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection

    def encode_text(self, ids: Tensor, step: Step | None = None) -> Tensor:
        """Return text embeddings (texts, dim), not normalised, of token ids (texts, length)."""
        return self.project_text(self.run_text(self.embed_text(ids), ids, step))

    @torch.no_grad()
    def encode_prompts(self, texts: Sequence[str], chunk: int = 256) -> Tensor:
        """Return text embeddings (texts, dim), not normalised; equal texts are encoded once.

        Args:
            texts: Prompts in any order, repetitions allowed.
            chunk: Texts per forward pass, bounds the memory.
        """
        unique = list(dict.fromkeys(texts))
        rows = {text: row for row, text in enumerate(unique)}
        features = self._stored(unique)
        if features is None:
            ids = self.tokenize(unique)
            ids = ids[:, : int(ids.argmax(dim=-1).max()) + 1]  # causal tower: nothing after the end has an influence
            features = torch.cat([self.encode_text(part) for part in ids.split(chunk)])
            self._store(unique, features)
        return features[[rows[text] for text in texts]]

    def _text_key(self, texts: Sequence[str]) -> str | None:
        """Key of the prompts' embeddings; None if they are not kept: under autocast they are others."""
        device = self.model.positional_embedding.device.type
        if self.text_store is None or torch.is_autocast_enabled(device):
            return None
        return entry_key(tower_hash(self.model, self._digests), self.precision, device, texts)

    def _stored(self, texts: Sequence[str]) -> Tensor | None:
        if self.text_store is None or (key := self._text_key(texts)) is None:
            return None
        found = self.text_store.get(key)
        return None if found is None else found.to(self.model.positional_embedding.device)

    def _store(self, texts: Sequence[str], features: Tensor) -> None:
        if self.text_store is not None and (key := self._text_key(texts)) is not None:
            self.text_store.put(key, features)
