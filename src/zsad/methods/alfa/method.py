"""ALFA: prompts from a language model, chosen for each image and aligned with each window."""

import json
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.nn.utils.rnn import pad_sequence

from zsad.clip import Clip
from zsad.clip.blocks import value
from zsad.functional.maps import probability, to_grid, upsample
from zsad.functional.windows import harmonic_mean, window_indices, window_map, window_tokens
from zsad.llm import LLM, AnswerCache, CacheMode, llm_config, load_llm
from zsad.methods.alfa.prompts import ClassPrompts, PromptWriter, load_alfa_prompts
from zsad.methods.base import Method
from zsad.methods.winclip import class_token_only
from zsad.types import Batch, Context, ImageProtocol, Prediction

Fallback = Literal["both", "side"]
Prior = Literal["identity", "zero"]
Prototype = Literal["mean-renormalised", "mean"]
ImageScore = Literal["both", "global", "map"]


class Selection(NamedTuple):
    """Which prompts speak about an image; row 0 normal, row 1 abnormal. Padding has delta 0 and is never kept."""

    delta: Tensor
    """(batch, 2, prompts) distance of each similarity to the interval of the other side."""
    score: Tensor
    """(batch, 2, prompts) contextual score in [0, 1)."""
    keep: Tensor
    """(batch, 2, prompts) bool, delta > 0."""
    used: Tensor
    """(batch, 2, prompts) bool, what is left to use after the fallback for empty sides."""


class Explanation(NamedTuple):
    """One descriptor of what may be wrong with an image."""

    descriptor: str
    """For example "cracked glass"."""
    cosine: float
    """Similarity of the image and the descriptor's sentence."""
    log_prob: float
    """Logarithm of its share among all descriptors of the class."""


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


def select_prompts(similarity: Tensor, valid: Tensor, k: float = 1.0, empty: Fallback = "both") -> Selection:
    """Return which prompts tell normal from abnormal for each image (section 3.2, equations 2 to 4).

    A prompt is kept if its similarity lies outside the interval that the other side's similarities span. The score is
    tanh(k delta / 2): equation 4 as printed never falls below one half, so nothing would be dropped.

    Args:
        similarity: Cosines of image and prompts, (batch, 2, prompts): normal, abnormal.
        valid: False on padding, same shape.
        k: Slope of the score; it changes no selection.
        empty: Where no prompt of a side is kept: ``"both"`` uses all prompts of both sides, ``"side"`` all of its own.
    """
    similarity = similarity.float()
    low = similarity.masked_fill(~valid, torch.inf).amin(dim=-1, keepdim=True)
    high = similarity.masked_fill(~valid, -torch.inf).amax(dim=-1, keepdim=True)
    own, other = (
        torch.maximum(lo - similarity, similarity - hi).clamp_min(0)
        for lo, hi in ((low, high), (low.flip(1), high.flip(1)))
    )
    delta = (other - own).abs().masked_fill(~valid, 0)
    keep = delta > 0
    lost = ~keep.any(dim=-1, keepdim=True)
    if empty == "both":
        lost = lost.any(dim=1, keepdim=True)
    return Selection(delta, torch.tanh(k * delta / 2), keep, torch.where(lost, valid, keep))


def prototypes(text: Tensor, used: Tensor, renormalise: bool = True) -> Tensor:
    """Return the mean of the prompts in use per image and side, (batch, 2, dim), of unit length if ``renormalise``.

    Args:
        text: Prompt embeddings, (batch, 2, prompts, dim).
        used: Which of them count, (batch, 2, prompts) bool.
        renormalise: Whether to give the means unit length.
    """
    weight = used.to(text.dtype)
    # a side without prompts (one-class design) gives zeros
    mean = torch.einsum("bsn,bsnd->bsd", weight, text) / weight.sum(dim=-1, keepdim=True).clamp_min(1)
    return F.normalize(mean, dim=-1) if renormalise else mean


def align(prompts: Tensor, values: Tensor, local: Tensor, ridge: float = 0.1, prior: Prior = "identity") -> Tensor:
    """Return the prompts as each window sees them, (..., windows, 2, dim), not normalised (section 3.3).

    The linear map W of a window takes each of its global value tokens g to the local one l: it minimises
    sum |W g - l|^2 + ridge |W - W0|^2, W0 the identity or zero. W itself is never formed: all comes from the Gram
    matrix of the window's few tokens.

    Args:
        prompts: Prototypes, (..., 2, dim).
        values: Global value tokens at each window's positions, (..., windows, tokens, dim).
        local: Value tokens of each window's own pass, same shape.
        ridge: Weight of the prior; a great one turns the aligner off (identity). Near 0, W g = l holds exactly, which
            needs linearly independent tokens.
        prior: W0.
    """
    with torch.autocast(prompts.device.type, enabled=False):
        # neighbouring tokens are nearly parallel: with a small ridge float32 loses the fifth digit
        dtype = torch.float64 if ridge < 0.01 else torch.float32
        g, target, f = values.to(dtype), local.to(dtype), prompts.to(dtype).unsqueeze(-3)
        gram = g @ g.mT + ridge * torch.eye(g.shape[-2], dtype=dtype, device=g.device)
        # cholesky_ex: an image of NaNs gives a map of NaNs, not the loss of its whole batch
        alpha = torch.cholesky_solve(g @ f.mT, torch.linalg.cholesky_ex(gram).L)  # (..., windows, tokens, 2)
        aligned = f + alpha.mT @ (target - g) if prior == "identity" else alpha.mT @ target
        return aligned.float()


class ALFA(Method):
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
        self.use_scoring = use_scoring
        self.use_aligner = use_aligner
        self.one_class = one_class
        self.k = k
        self.empty: Fallback = empty
        self.renormalise = prototype == "mean-renormalised"
        self.temperature = temperature
        self.scales = tuple(scales)
        self.ridge = ridge
        self.prior: Prior = prior
        self.image_score: ImageScore = image_score
        self.include_global_in_map = include_global_in_map
        self.align_corners = align_corners
        self.window_chunk = window_chunk
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

    # ---- text

    def class_prompts(self, class_name: str) -> ClassPrompts:
        """Return the prompts of a class as text, normal and abnormal: templates, then sentences."""
        if self.one_class:
            return ClassPrompts([self.writer.one_class(class_name)], [])
        return self.writer.write(class_name)

    def text_features(self, class_names: Sequence[str]) -> Tensor:
        """Return all candidate prompts of each class, (classes, 2 * n, dim) of unit length or zero.

        The first n rows are normal, the others abnormal; n is the longest side of these classes, and what a shorter
        one lacks is filled with zeros, which no prompt's embedding is.
        """
        return _stack(self._banks(class_names))

    def text(self, class_names: Sequence[str]) -> Tensor:
        """Return the candidate prompts of each image's class as :meth:`text_features` has them, (batch, 2 * n, dim)."""
        unique = list(dict.fromkeys(class_names))
        if missing := [name for name in unique if name not in self._text]:
            self._text.update(zip(missing, self._banks(missing), strict=True))
        return _stack([self._text[name] for name in unique])[[unique.index(name) for name in class_names]]

    def _banks(self, class_names: Sequence[str]) -> list[Tensor]:
        """Return the prompts of each class, (2, n, dim) with n of its own; one encoder call."""
        sides = [side for name in class_names for side in self.class_prompts(name)]
        parts = self._embed([text for side in sides for text in side]).split([len(side) for side in sides])
        return [pad_sequence([*pair], batch_first=True) for pair in zip(parts[::2], parts[1::2], strict=True)]

    def forget_text(self) -> None:
        """Drop cached embeddings; the prompts themselves are kept, so that the language model is not asked again."""
        super().forget_text()
        self._descriptors = {}
        self._seen = None

    def _embed(self, texts: Sequence[str]) -> Tensor:
        with torch.no_grad():
            return F.normalize(self.clip.encode_prompts(texts).float(), dim=-1)

    # ---- images

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

    # ---- explanations

    @torch.no_grad()
    def explain(self, image: Tensor, class_names: Sequence[str], top_k: int = 5) -> list[list[Explanation]]:
        """Return for each image the descriptors that fit it best, the best first; scores do not use them.

        The same tensor right after :meth:`forward` is not encoded again.

        Args:
            image: Images normalised as :attr:`protocol` says, (batch, 3, height, width).
            class_names: Class of each image.
            top_k: How many at most.

        Raises:
            ValueError: If the numbers of images and classes differ, or ``top_k`` is less than 1.
        """
        if len(class_names) != len(image):
            raise ValueError(
                f"Expected one class name per image, got {len(class_names)} names for {len(image)} images."
            )
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1 descriptor, got {top_k}.")
        if self._seen is not None and self._seen[0]() is image and self._seen[1] == _version(image):
            embedding = self._seen[2]
        else:
            embedding = self.look(self.clip.embed_image(image, ln_pre=False)).embedding
        explanations: list[list[Explanation]] = [[] for _ in class_names]
        for name in dict.fromkeys(class_names):
            rows = [row for row, other in enumerate(class_names) if other == name]
            texts = self.writer.describe(name)
            if name not in self._descriptors:
                phrase = self.writer.word(name).phrase
                self._descriptors[name] = self._embed([f"An image of {phrase} with {text}" for text in texts])
            cosines = embedding[rows] @ self._descriptors[name].T
            shares = (cosines / self.temperature).log_softmax(dim=-1)
            for row, order in zip(rows, cosines.topk(min(top_k, len(texts))).indices.tolist(), strict=True):
                at = rows.index(row)
                explanations[row] = [
                    Explanation(texts[column], cosines[at, column].item(), shares[at, column].item())
                    for column in order
                ]
        return explanations

    def _remember(self, image: Tensor, embedding: Tensor) -> None:
        if not torch.compiler.is_compiling():
            self._seen = (weakref.ref(image), _version(image), embedding.detach())

    # ---- Lightning

    def _start(self) -> None:
        super()._start()
        self._counts.clear()
        self._take_names()

    def on_predict_epoch_start(self) -> None:
        """Forget cached text, take over the benchmark's readable names."""
        super().on_predict_epoch_start()
        self._take_names()

    def _take_names(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        suggested = getattr(getattr(data, "facts", None), "readable", {})
        wanted = {name: word for name, word in getattr(data, "prompt_names", {}).items() if word != name}
        self.writer.readable = {**suggested, **wanted, **self.readable}

    def _count(self, chosen: Selection) -> None:
        """Keep the kept counts and whether a side was empty, (batch, 3), for the log."""
        if not torch.compiler.is_compiling():
            kept = chosen.keep.sum(dim=-1)
            self._chosen = torch.cat([kept, (kept == 0).any(dim=-1, keepdim=True)], dim=1).float()

    def _evaluate(self, batch: Batch) -> None:
        super()._evaluate(batch)
        if self._chosen is None:
            return
        for name, row in zip(batch["class_name"], self._chosen, strict=True):
            entry = torch.cat([row, row.new_ones(1)])
            self._counts[name] = self._counts[name] + entry if name in self._counts else entry

    def _log_results(self, prefix: str) -> None:
        super()._log_results(prefix)
        parts: list[Any] = [{name: entry.cpu() for name, entry in self._counts.items()}]
        if distributed.is_available() and distributed.is_initialized():
            parts = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, {name: entry.cpu() for name, entry in self._counts.items()})
        counts: dict[str, Tensor] = {}
        for part in parts:
            for name, entry in part.items():
                counts[name] = counts[name] + entry if name in counts else entry
        if self.use_scoring and counts:
            total = torch.stack(list(counts.values())).sum(dim=0)
            self.log("alfa/fallback_rate", total[2] / total[3])
            for name, entry in sorted(counts.items()):
                self.log(f"alfa/kept_normal/{name}", entry[0] / entry[3])
                self.log(f"alfa/kept_abnormal/{name}", entry[1] / entry[3])
        self._write_prompts()

    def _write_prompts(self) -> None:
        """Put the prompts in use beside the logger's files."""
        written = self.writer.written()
        if not (self.trainer.is_global_zero and self.trainer.loggers and self.trainer.log_dir and written):
            return
        content = {"llm": self.hparams["llm"], "prompts": {name: one._asdict() for name, one in written.items()}}
        path = Path(self.trainer.log_dir) / "alfa_prompts.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def _stack(banks: Sequence[Tensor]) -> Tensor:
    """Return banks (2, n, dim) of different n as one tensor, (banks, 2 * n, dim)."""
    return pad_sequence([bank.transpose(0, 1) for bank in banks], batch_first=True).transpose(1, 2).flatten(1, 2)


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written to; inference tensors do not count it."""
    return -1 if tensor.is_inference() else tensor._version
