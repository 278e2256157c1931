"""Learned prompts for a frozen text tower: context before fixed words, and deep tokens between its blocks."""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.clip import Clip
from zsad.clip.backbone import Position
from zsad.clip.blocks import Step, deep_prompts
from zsad.methods.trained import TrainedMethod
from zsad.types import ImageProtocol

DeepTokenCast = Literal["none", "float16"]


class PromptLearner(nn.Module):
    """A pair of prompts per class, ``[V_1] ... [V_n] <words>.`` for normal and for anomalous.

    Args:
        clip: The backbone whose text tower will read the prompts; it is not kept.
        normal_words: Fixed words after the context; ``{}`` stands for the class name, underscores as spaces.
        abnormal_words: The same for the anomalous prompt.
        n_ctx: Number of context vectors per prompt; 0 leaves the fixed words alone.
        depth: ``depth - 1`` deep token tensors overwrite positions 1..``n_deep`` at the input of text blocks
            2..``depth``; capped at the number of text blocks.
        n_deep: Length of a deep token tensor.
        share_context: One context for both prompts.
        deep_token_cast: ``"float16"`` rounds the deep tokens, and their gradients, as AnomalyCLIP's released code does.
        seed: Of the initial values, normal with standard deviation 0.02.

    Raises:
        ValueError: If a number is out of range.

    References:
        AnomalyCLIP, arXiv 2310.18961, sections 3.2 and 3.3; CoOp, arXiv 2109.01134, section 3.2.
    """

    def __init__(
        self,
        clip: Clip,
        normal_words: str,
        abnormal_words: str,
        n_ctx: int = 12,
        depth: int = 1,
        n_deep: int = 4,
        share_context: bool = False,
        deep_token_cast: DeepTokenCast = "none",
        seed: int = 111,
    ) -> None:
        super().__init__()
        context = clip.tokenizer.context_length
        if not 0 <= n_ctx <= context - 2:
            raise ValueError(f"n_ctx must be between 0 and {context - 2} (the text tower's context), got {n_ctx}.")
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}; 1 means no deep tokens.")
        if not 1 <= n_deep <= context - 1:
            raise ValueError(
                f"n_deep must be between 1 and {context - 1}, got {n_deep}; depth=1 turns deep tokens off."
            )
        if deep_token_cast not in ("none", "float16"):
            raise ValueError(f"deep_token_cast must be 'none' or 'float16', got '{deep_token_cast}'.")
        self.words = (normal_words, abnormal_words)
        self.n_ctx = n_ctx
        self.n_deep = n_deep
        self.share_context = share_context
        self.deep_token_cast = deep_token_cast
        random = torch.Generator().manual_seed(seed)

        def parameter(rows: int) -> nn.Parameter:
            return nn.Parameter(0.02 * torch.randn(rows, clip.text_width, generator=random))

        self.ctx_normal = parameter(n_ctx)
        if not share_context:
            self.ctx_abnormal = parameter(n_ctx)
        self.deep_tokens = nn.ParameterList([parameter(n_deep) for _ in range(min(depth, clip.text_depth) - 1)])
        self._finished: tuple[str, Tensor] | None = None

    @property
    def class_agnostic(self) -> bool:
        """Whether one pair of prompts serves all classes."""
        return not any("{}" in words for words in self.words)

    def texts(self, class_names: Sequence[str]) -> list[str]:
        """Return what is tokenised, class by class, normal before anomalous; ``X`` holds the context's places."""
        places = "X " * self.n_ctx
        readable = [name.replace("_", " ") for name in class_names]
        return [f"{places}{words.replace('{}', name)}." for name in readable for words in self.words]

    def ids(self, clip: Clip, class_names: Sequence[str]) -> Tensor:
        """Return token ids (2 * classes, length), cut after the last end token: the tower is causal, the rest is idle.

        Raises:
            ValueError: If a prompt is longer than the text tower's context.
        """
        texts = self.texts(class_names)
        context = clip.tokenizer.context_length
        length = max(len(clip.tokenizer.encode(text)) + 2 for text in texts)
        if length > context:
            longest = max(texts, key=len).removeprefix("X " * self.n_ctx)
            raise ValueError(
                f"A prompt of {self.n_ctx} context vectors and '{longest}' has {length} tokens, the text tower takes "
                f"{context}: shorten the words or lower n_ctx."
            )
        if len(self.deep_tokens):
            length = max(length, 1 + self.n_deep)
        return clip.tokenize(texts)[:, :length]

    def embed(self, clip: Clip, ids: Tensor) -> Tensor:
        """Return the token embeddings with the context in its places, without positions, (rows, length, width)."""
        fixed = clip.embed_text(ids)
        contexts = torch.stack([self.ctx_normal, self.ctx_normal if self.share_context else self.ctx_abnormal])
        learned = contexts.to(fixed.dtype).repeat(len(ids) // 2, 1, 1)
        return torch.cat([fixed[:, :1], learned, fixed[:, 1 + self.n_ctx :]], dim=1)

    def step(self, clip: Clip, rows: int, length: int) -> Step:
        """Return what a text block does to ``rows`` prompts of ``length`` tokens."""
        tokens: Sequence[Tensor] = list(self.deep_tokens)
        if self.deep_token_cast == "float16":
            # one copy per prompt before the cast: gradients are rounded per prompt, then summed, as in the original
            tokens = [token.expand(rows, -1, -1).half() for token in tokens]
        return deep_prompts(tokens, clip.causal_mask[:length, :length])

    def encode(self, clip: Clip, class_names: Sequence[str]) -> Tensor:
        """Return text embeddings of any length, (classes, 2, dim), normal before anomalous."""
        ids = self.ids(clip, class_names)
        features = clip.run_text(self.embed(clip, ids), ids, self.step(clip, *ids.shape))
        return clip.project_text(features).unflatten(0, (-1, 2))

    def forward(self, clip: Clip, class_names: Sequence[str] = ("object",)) -> Tensor:
        """Return unit-length text vectors with their graph, (classes, 2, dim), normal before anomalous."""
        return F.normalize(self.encode(clip, class_names).float(), dim=-1)

    # ---- finished vectors

    def fingerprint(self) -> str:
        """Return a hash of everything that the vectors depend on besides the backbone."""
        digest = hashlib.sha256(repr((self.words, self.deep_token_cast)).encode())
        for name, value in sorted(self.named_parameters()):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def finished(self, clip: Clip) -> tuple[str, Tensor]:
        """Return the fingerprint and the pair (1, 2, dim) of class-agnostic prompts; encoded once per state."""
        fingerprint = self.fingerprint()
        if self._finished is None or self._finished[0] != fingerprint:
            with torch.inference_mode(False), torch.no_grad():  # kept beyond this call
                self._finished = (fingerprint, self(clip))
        return self._finished

    def adopt(self, fingerprint: str, text: Tensor) -> None:
        """Take a finished pair from a file; it is used only while the parameters have that fingerprint."""
        self._finished = (fingerprint, text)


class PromptMethod(TrainedMethod):
    """A method whose learned part is a :class:`PromptLearner`; its checkpoints carry the finished text vectors.

    Args:
        backbone: Backbone name or a loaded one.
        sigma: Width of the Gaussian on the map, in pixels.
        position: How the position table is resized.
        **kwargs: Options of :class:`~zsad.methods.trained.TrainedMethod`.
    """

    published_backbone = "ViT-L-14-336-quickgelu/openai"
    published_protocol = ImageProtocol(size=518)
    word_options = frozenset({"normal_words", "abnormal_words"})
    prompts: PromptLearner

    def __init__(
        self, backbone: str | Clip, sigma: float = 4.0, position: Position = "bilinear", **kwargs: Any
    ) -> None:
        super().__init__(backbone, sigma=sigma, position=position, **kwargs)

    def text_features(self, class_names: Sequence[str]) -> Tensor:
        """Return the unit-length pair of each class, (classes, 2, dim)."""
        if self.prompts.class_agnostic:
            return self.prompts.finished(self.clip)[1].to(self.device).expand(len(class_names), -1, -1)
        return self.prompts(self.clip, class_names)

    def batch_text(self, class_names: Sequence[str]) -> Tensor:
        """Return the pair of each image's class with its graph, (batch, 2, dim); each class is encoded once."""
        if self.prompts.class_agnostic:
            return self.prompts(self.clip).expand(len(class_names), -1, -1)
        unique = list(dict.fromkeys(class_names))
        return self.prompts(self.clip, unique)[[unique.index(name) for name in class_names]]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the finished text vectors, so that no text tower is needed to use the file."""
        super().on_save_checkpoint(checkpoint)
        if self.prompts.class_agnostic:
            fingerprint, text = self.prompts.finished(self.clip)
            checkpoint["zsad"] |= {"text_fingerprint": fingerprint, "text": text.cpu()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the finished text vectors."""
        super().on_load_checkpoint(checkpoint)
        made = checkpoint.get("zsad", {})
        if "text" in made:
            self.prompts.adopt(made["text_fingerprint"], made["text"])
