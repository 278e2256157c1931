"""ALFA: prompts from a language model, chosen for each image and aligned with each window."""

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.clip import Clip
from zsad.clip.blocks import value
from zsad.functional.maps import probability, to_grid, upsample
from zsad.functional.windows import harmonic_mean, window_indices, window_map, window_tokens
from zsad.llm import LLM, AnswerCache, CacheMode, llm_config, load_llm
from zsad.methods.alfa.aligner import Prior, align
from zsad.methods.alfa.prompts import PromptWriter, load_alfa_prompts
from zsad.methods.alfa.selection import Fallback, Prototype, Selection, prototypes, select_prompts
from zsad.methods.alfa.words import Words
from zsad.methods.winclip import class_token_only
from zsad.types import Context, ImageProtocol, Prediction

ImageScore = Literal["both", "global", "map"]


class Look(NamedTuple):
    """One pass of a sequence of tokens, in the joint space, float32 and of unit length."""

    embedding: Tensor
    """(batch, dim) class token."""
    values: Tensor | None
    """(batch, tokens, dim) value tokens of the last block, class token first; None where the aligner is off."""
    patches: Tensor | None
    """(batch, patches, width) last block after ``ln_post``, neither projected nor normalised; None unless asked for."""


class Window(NamedTuple):
    """What one scale says."""

    embedding: Tensor
    """(batch, windows, dim), unit length."""
    values: Tensor | None
    """(batch, windows, 1 + scale * scale, dim), unit length; None where the aligner is off."""
    prompts: Tensor
    """(batch, windows, 2, dim) prototypes as each window sees them; the same for all where the aligner is off."""
    score: Tensor
    """(batch, windows) probability of "abnormal"."""


class ALFA(Words):
    """Choose prompts for each image, align them with each window, and average the windows' scores harmonically.

    Paper: Zhu et al., "Do LLMs Understand Visual Anomalies?" (ACM MM 2024, arXiv 2404.09654). Training-free. No code
    was released, and the paper leaves much open: what is marked "own" below is this library's decision, and whether
    these decisions reach the published numbers is unknown. The packaged answers are a hand-written stand-in for a
    language model's: numbers obtained with them are not the paper's setting.

    Args:
        backbone: Backbone name or a loaded one; the paper says LAION-400M, the weights' tag is own.
        use_template: Use template prompts (table 2).
        use_llm: Use the language model's sentences (table 2).
        use_scoring: Choose prompts per image; else all are used (table 2).
        use_aligner: Align prompts with windows (table 2).
        one_class: Table 2, first row: one normal prompt, score (1 - cos) / 2 (own), no map (all zero).
        syntactic_consistency: Ask for, and accept only, sentences that begin alike (table 3).
        k: Slope of the contextual score, which is reported only.
        empty: What to use where no prompt of a side is kept: all of both sides, or all of that side (own).
        prototype: Whether the mean of the prompts is given unit length; ``"mean"`` also drops all later
            normalisations of prompts (own).
        temperature: Divisor of the cosines before each softmax (own).
        scales: Sides of the windows in patches (table 6).
        ridge: Weight of the aligner's prior (own).
        prior: Aligner without evidence: leave the prompts (``"identity"``) or drop them (``"zero"``) (own).
        image_score: Mean of global score and map's maximum, or one of them (table 6).
        include_global_in_map: Let the global score join the harmonic mean as one more map, as in WinCLIP (own).
        align_corners: How the patch map is enlarged (own).
        window_chunk: Windows in one forward pass, which bounds the memory; None for all. The result does not depend
            on it.
        llm: Language model: see :func:`zsad.llm.load_llm`.
        llm_cache: Whether live answers come from disk first, only, or never.
        cache_dir: Folder of the answers; None for the user's cache folder.
        llm_seed: Seed of the first question.
        min_per_label: Ask again below this number of sentences; None takes the word lists'.
        max_per_label: Greatest number of sentences; None takes the word lists'.
        prompts: Packaged word lists (``"alfa"``) or a YAML file of that form.
        readable: Raw class name -> readable name, for classes that the word lists do not have; under a Trainer the
            benchmark's own suggestions are added.
        **kwargs: Options of :class:`~zsad.methods.base.Method`; ``sigma`` is 0, as the paper smooths nothing.

    Raises:
        ValueError: If an option is out of its range, or there is no source of prompts.
    """

    published_backbone = "ViT-B-16-plus-240/laion400m_e32"
    published_protocol = ImageProtocol(size=240)
    few_shot_in_score = True

    def __init__(
        self,
        backbone: str | Clip = published_backbone,
        use_template: bool = True,
        use_llm: bool = True,
        use_scoring: bool = True,
        use_aligner: bool = True,
        one_class: bool = False,
        syntactic_consistency: bool = True,
        k: float = 1.0,
        empty: Fallback = "both",
        prototype: Prototype = "mean-renormalised",
        temperature: float = 0.07,
        scales: Sequence[int] = (2, 3),
        ridge: float = 0.1,
        prior: Prior = "identity",
        image_score: ImageScore = "both",
        include_global_in_map: bool = False,
        align_corners: bool = False,
        window_chunk: int | None = None,
        llm: str | dict[str, Any] | LLM = "packaged",
        llm_cache: CacheMode = "cache_first",
        cache_dir: str | Path | None = None,
        llm_seed: int = 0,
        min_per_label: int | None = None,
        max_per_label: int | None = None,
        prompts: str = "alfa",
        readable: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        model = load_llm(llm)
        llm = llm_config(model)  # plain values into the saved hyper-parameters, never an object
        super().__init__(backbone, **kwargs)
        for option, given, choices in (
            ("empty", empty, get_args(Fallback)),
            ("prior", prior, get_args(Prior)),
            ("prototype", prototype, get_args(Prototype)),
            ("image_score", image_score, get_args(ImageScore)),
        ):
            if given not in choices:
                raise ValueError(f"{option} must be one of {list(choices)}, got '{given}'.")
        for option, number in (("k", k), ("temperature", temperature)):
            if not number > 0:
                raise ValueError(f"{option} must be above 0, got {number}.")
        if not ridge >= 1e-6:
            raise ValueError(f"ridge must be at least 1e-6, got {ridge}: a window's tokens are nearly parallel.")
        if not scales or len(set(scales)) < len(scales) or min(scales) < 1:
            raise ValueError(f"scales must be different window sides of at least 1 patch, got {list(scales)}.")
        if window_chunk is not None and window_chunk < 1:
            raise ValueError(f"window_chunk must be at least 1 window, got {window_chunk}; None takes all at once.")
        if not (use_template or use_llm or one_class):
            raise ValueError("ALFA has no prompts: switch use_template or use_llm on, or one_class.")
        self.use_scoring, self.use_aligner, self.one_class = use_scoring, use_aligner, one_class
        self.k, self.temperature, self.ridge = k, temperature, ridge
        self.empty: Fallback = empty
        self.prior: Prior = prior
        self.renormalise = prototype == "mean-renormalised"
        self.scales, self.window_chunk = tuple(scales), window_chunk
        self.image_score: ImageScore = image_score
        self.include_global_in_map, self.align_corners = include_global_in_map, align_corners
        self.writer = PromptWriter(
            load_alfa_prompts(prompts),
            model,
            AnswerCache(cache_dir, llm_cache),
            lambda text: len(self.clip.tokenizer.encode(text)) + 2,
            int(self.clip.model.context_length),
            templates=use_template,
            sentences=use_llm,
            consistent=syntactic_consistency,
            seed=llm_seed,
            min_per_label=min_per_label,
            max_per_label=max_per_label,
        )
        self.readable = dict(readable or {})
        self.writer.readable.update(self.readable)
        self._descriptors: dict[str, Tensor] = {}
        self._seen: tuple[weakref.ref[Tensor], int, Tensor] | None = None
        self._chosen: Tensor | None = None
        self._counts: dict[str, Tensor] = {}

    # ---- images

    def embed(self, image: Tensor) -> Tensor:
        """Return the unit embeddings of whole images, (batch, dim)."""
        return self.look(self.clip.embed_image(image, ln_pre=False)).embedding

    def look(self, tokens: Tensor, patches: bool = False) -> Look:
        """Return what the image tower makes of token sequences.

        Args:
            tokens: Embedded tokens before the first LayerNorm, class token first, (batch, tokens, width).
            patches: Whether the patch tokens of the last block are wanted.
        """
        clip, depth = self.clip, self.clip.depth
        first = clip.ln_pre(tokens)
        step = None if patches else class_token_only(depth)
        last, kept = clip.run_image(first, step, keep=(depth - 1,) if depth > 1 else ())
        last = clip.ln_post(last)
        values = None
        if self.use_aligner:
            # value path of the last block without residual and MLP, as in MaskCLIP (which layer and space: own)
            before = kept[depth - 1] if depth > 1 else first
            values = self._unit(clip.ln_post(value(clip.model.visual.transformer.resblocks[-1], before)))
        return Look(self._unit(last[:, 0]), values, last[:, 1:] if patches else None)

    def _unit(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.clip.project(tokens).float(), dim=-1)

    def look_at_windows(self, embedded: Tensor, index: Tensor) -> Look:
        """Return what the tower makes of every window, each a pass of its own; results (batch, windows, ...).

        Args:
            embedded: Embedded tokens of the images before the first LayerNorm, (batch, 1 + patches, width).
            index: Patches of each window, (windows, patches of a window).
        """
        looks = [self.look(tokens) for tokens in window_tokens(embedded, index, self.window_chunk)]
        shape = (embedded.shape[0], index.shape[0])  # not len(): it would fix the batch size of an exported program
        values = [one.values for one in looks if one.values is not None]
        return Look(
            torch.cat([one.embedding for one in looks]).unflatten(0, shape),
            torch.cat(values).unflatten(0, shape) if values else None,
            None,
        )

    def window(self, embedded: Tensor, whole: Look, prompts: Tensor, grid: tuple[int, int], scale: int) -> Window:
        """Return the windows of one scale with their prompts and scores (equations 6 to 9 and 11).

        Args:
            embedded: Embedded tokens of the images before the first LayerNorm, (batch, 1 + patches, width).
            whole: The images' own pass.
            prompts: Prototypes, (batch, 2, dim).
            grid: Rows and columns of patches.
            scale: Side of a window in patches.
        """
        index = window_indices(grid, scale, embedded.device)
        embedding, values, _ = self.look_at_windows(embedded, index)
        local = prompts[:, None].expand(-1, len(index), -1, -1)
        if values is not None and whole.values is not None:
            tokens = torch.cat([index.new_zeros(len(index), 1), index + 1], dim=1)  # class token first
            local = align(prompts, whole.values[:, tokens], values, self.ridge, self.prior)
            local = F.normalize(local, dim=-1) if self.renormalise else local
        return Window(embedding, values, local, self._probability(embedding, local))

    def _probability(self, embedding: Tensor, prompts: Tensor) -> Tensor:
        """Return the share of "abnormal", (..., dim) against (..., 2, dim) -> (...)."""
        return probability((embedding.unsqueeze(-2) * prompts).sum(dim=-1), self.temperature)

    def select(self, embedding: Tensor, text: Tensor) -> tuple[Tensor, Selection]:
        """Return similarities of images and candidate prompts, (batch, 2, n), and the choice among them.

        Args:
            embedding: Unit embeddings of the images, (batch, dim).
            text: Candidate prompts, (batch, 2, n, dim), padded with zeros.
        """
        # no matrix product: equal prompts must get equal similarities to the last bit, wherever they stand
        similarity = (embedding[:, None, None] * text).sum(dim=-1)
        valid = text.any(dim=-1)
        chosen = select_prompts(similarity, valid, self.k, self.empty)
        return similarity, chosen if self.use_scoring else chosen._replace(keep=valid, used=valid)

    # ---- the method

    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return map and score of each image; ``text`` is (batch, 2 * n, dim), see :meth:`text_features`."""
        grid = self.clip.grid(image)
        few_shot = not self.one_class and self.is_few_shot(context.class_names)
        embedded = self.clip.embed_image(image, ln_pre=False)
        whole = self.look(embedded, patches=few_shot)
        with torch.autocast(image.device.type, enabled=False):
            candidates = text.float().unflatten(1, (2, -1))
            self._remember(image, whole.embedding)
            if self.one_class:
                score = (1 - (whole.embedding * candidates[:, 0, 0]).sum(dim=-1)) / 2
                return Prediction(torch.zeros_like(image[:, 0], dtype=torch.float32), score)
            _, chosen = self.select(whole.embedding, candidates)
            self._count(chosen)
            prompts = prototypes(candidates, chosen.used, self.renormalise)
            global_score = self._probability(whole.embedding, prompts)
        scores, embeddings = {}, {}
        for scale in self.scales:
            seen = self.window(embedded, whole, prompts, grid, scale)
            scores[scale], embeddings[scale] = seen.score, seen.embedding  # the rest is large
        with torch.autocast(image.device.type, enabled=False):
            grid_map = self.text_map(scores, global_score, grid)
            if few_shot:
                distances = self.distance_maps(whole, embeddings, context.class_names, grid)
                grid_map = (grid_map + torch.stack(list(distances.values())).mean(dim=0)) / 2
            return Prediction(
                anomaly_map=upsample(grid_map, (image.shape[-2], image.shape[-1]), self.align_corners),
                pred_score=self.fuse(global_score, grid_map),
            )

    def text_map(self, scores: Mapping[int, Tensor], global_score: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the harmonic mean of all scales' maps, (batch, rows, columns).

        Args:
            scores: Scale -> probability of "abnormal" per window, (batch, windows).
            global_score: The same for the whole image, (batch,).
            grid: Rows and columns of patches.
        """
        maps = [window_map(score, grid, scale) for scale, score in scores.items()]
        if self.include_global_in_map:
            maps.append(global_score[:, None, None].expand_as(maps[0]))
        return harmonic_mean(maps)

    def fuse(self, global_score: Tensor, grid_map: Tensor) -> Tensor:
        """Return the image score (equation 12), (batch,); the maximum is the patch map's, before it is enlarged."""
        peak = grid_map.amax(dim=(1, 2))
        return {"both": (global_score + peak) / 2, "global": global_score, "map": peak}[self.image_score]

    # ---- references

    def reference_features(self, image: Tensor) -> dict[str, Tensor]:
        """Return patch tokens after ``ln_post`` and window embeddings, kind -> (batch, positions, dim)."""
        embedded, grid = self.clip.embed_image(image, ln_pre=False), self.clip.grid(image)
        patches = self.look(embedded, patches=True).patches
        assert patches is not None
        features = {"patch": patches}
        for scale in self.scales:
            index = window_indices(grid, scale, image.device)
            features[f"scale{scale}"] = self.look_at_windows(embedded, index).embedding
        return features

    def distance_maps(
        self, whole: Look, windows: Mapping[int, Tensor], class_names: Sequence[str], grid: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return halved cosine distances to the references as maps, kind -> (batch, rows, columns) in [0, 1].

        Args:
            whole: The images' own pass, with patches.
            windows: Scale -> window embeddings, (batch, windows, dim).
            class_names: Class of each image.
            grid: Rows and columns of patches.
        """
        assert whole.patches is not None
        maps = {"patch": to_grid(self.memory.distance("patch", whole.patches, class_names) / 2, grid)}
        for scale, embedding in windows.items():
            distance = self.memory.distance(f"scale{scale}", embedding, class_names) / 2
            maps[f"scale{scale}"] = window_map(distance, grid, scale)
        return maps
