"""Both towers of CLIP with prompt tokens in their first blocks, and the linear layers behind the image tower."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zsad.clip.blocks import append_prompts, deep_prompts
from zsad.methods.adaclip.parts import Branch, Heads, PromptCast, PromptType, StaticPrompts, hybrid_prompts
from zsad.methods.prototypes import average
from zsad.methods.trained import TrainedMethod
from zsad.prompts import ClassWords, Prompts

_TEXT_CHUNK = 8  # images whose prompts go through the text tower at once


class PromptedTowers(TrainedMethod):
    """The part of AdaCLIP that turns an image and a class name into tokens and text vectors."""

    layers: tuple[int, ...]

    def set_prompts(
        self,
        prompts: Prompts,
        class_words: ClassWords,
        length: int,
        depth: int,
        branch: Branch,
        prompt_type: PromptType,
        cast: PromptCast,
    ) -> None:
        """Set the options that :class:`AdaCLIP` describes, and make what is learned.

        Raises:
            ValueError: If the prompts are too long for the text tower.
        """
        self.prompts, self.class_words = prompts, class_words
        self.length, self.branch, self.prompt_type, self.prompt_cast = length, branch, prompt_type, cast
        self.depth = min(depth, self.clip.depth, self.clip.text_depth)
        self._check_length()
        self._build()
        self._ids: dict[str, Tensor] = {}
        self._lengths: dict[str, int] = {}

    def _build(self) -> None:
        clip, n = self.clip, self.length
        idle: list[Tensor] = []  # what nothing reads: in the files, but out of the optimiser
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            if "S" in self.prompt_type and "L" in self.branch:
                self.text_prompter = StaticPrompts(self.depth, n, clip.text_width)
                idle.append(self.text_prompter.static_prompts[0])
            if "S" in self.prompt_type and "V" in self.branch:
                self.visual_prompter = StaticPrompts(self.depth, n, clip.width)
            self.patch_token_layer = Heads(len(self.layers), clip.width, clip.dim)
            self.cls_token_layer = Heads(1, clip.dim, clip.dim)
            if "D" in self.prompt_type:
                self.dynamic_visual_prompt_generator = Heads(n, clip.dim, clip.width)
                self.dynamic_text_prompt_generator = Heads(n, clip.dim, clip.text_width)
                idle += [] if "V" in self.branch else self.dynamic_visual_prompt_generator.parameters()
                idle += [] if self.text_follows_image else self.dynamic_text_prompt_generator.parameters()
        for parameter in idle:
            parameter.requires_grad_(False)

    def _check_length(self) -> None:
        if not self.text_has_prompts:
            return
        # start token, the words of the shortest prompt with a class of one token, end token
        room = min(len(self.clip.tokenizer.encode(text)) for side in self.prompts.compose("x") for text in side)
        if self.length > room:
            raise ValueError(
                f"length must be at most {room} with prompts in the text tower, got {self.length}: more would "
                f"overwrite the end token of the shortest prompt."
            )

    @property
    def text_has_prompts(self) -> bool:
        """Whether anything learned enters the text tower; its first block takes nothing."""
        return "L" in self.branch and self.depth > 1

    @property
    def text_follows_image(self) -> bool:
        """Whether the text vectors depend on the image."""
        return self.text_has_prompts and "D" in self.prompt_type

    # ---- the towers

    def dynamic_prompts(self, image: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the prompt tokens that follow from the image, for the image tower and for the text tower.

        They are linear functions of the plain image embedding, not normalised; no gradient passes through that.

        Args:
            image: Normalised images, (batch, 3, height, width).

        Returns:
            (batch, length, width) and (batch, length, text width), each None where nothing reads it.
        """
        if "D" not in self.prompt_type or not ("V" in self.branch or self.text_follows_image):
            return None, None
        with torch.no_grad():
            plain = self.clip.encode_image(image).cls
        visual = self.dynamic_visual_prompt_generator.together(plain) if "V" in self.branch else None
        return visual, self.dynamic_text_prompt_generator.together(plain) if self.text_follows_image else None

    def image_tokens(self, image: Tensor, dynamic: Tensor | None = None) -> tuple[Tensor, dict[int, Tensor]]:
        """Return the prompted tower's embedding (batch, dim) and the raw tokens of the layers without the prompts.

        Args:
            image: Normalised images, (batch, 3, height, width).
            dynamic: What :meth:`dynamic_prompts` gave for the image tower.

        Returns:
            The embedding, not normalised, and block number -> (batch, 1 + patches, width), class token first.
        """
        x, step = self.clip.embed_image(image), None
        tokens = x.shape[1]
        if "V" in self.branch:
            static = self.visual_prompter.static_prompts if "S" in self.prompt_type else [None] * self.depth
            repeats = len(image) if dynamic is None else 1
            step = append_prompts(hybrid_prompts(list(static), dynamic, repeats, self.prompt_cast))
        last, kept = self.clip.run_image(x, step, keep=self.layers)
        cls = self.clip.project(self.clip.ln_post(last[:, 0]))
        return cls, {number: state[:, :tokens] for number, state in kept.items()}

    def prompt_ids(self, class_name: str) -> Tensor:
        """Return the token ids of a class's prompts, (prompts, context) on the CPU, normal before anomalous."""
        if class_name not in self._ids:
            normal, anomalous = self.prompts.compose(class_name, self.class_words)
            ids = self._ids[class_name] = self.clip.tokenizer([*normal, *anomalous])
            self._lengths[class_name] = int(ids.argmax(dim=-1).max()) + 1
        return self._ids[class_name]

    def text_rows(self, class_names: Sequence[str], dynamic: Tensor | None = None) -> Tensor:
        """Return the raw embedding of every prompt, (names, prompts, dim).

        Args:
            class_names: One name per image, or per class where the text does not depend on the image.
            dynamic: What :meth:`dynamic_prompts` gave for the text tower, (names, length, text width).
        """
        ids = torch.stack([self.prompt_ids(name) for name in class_names]).to(self.clip.causal_mask.device)
        names, rows, _ = ids.shape
        length = max(self._lengths[name] for name in class_names)  # causal tower: the rest has no influence
        ids = ids[..., :length].flatten(0, 1)
        step = None
        if self.text_has_prompts:
            static = self.text_prompter.static_prompts if "S" in self.prompt_type else [None] * self.depth
            repeats = len(ids) if dynamic is None else rows
            tokens = hybrid_prompts(list(static)[1:], dynamic, repeats, self.prompt_cast)
            step = deep_prompts(tokens, self.clip.causal_mask[: ids.shape[1], : ids.shape[1]])
        return self.clip.encode_text(ids, step).unflatten(0, (names, rows))

    def text_vectors(self, class_names: Sequence[str], dynamic: Tensor | None = None) -> Tensor:
        """Return the state vectors that :meth:`text_rows` leads to, with their graph, (names, 2, dim)."""
        parts = []
        for start in range(0, len(class_names), _TEXT_CHUNK):
            chosen = slice(start, start + _TEXT_CHUNK)
            rows = self.text_rows(class_names[chosen], None if dynamic is None else dynamic[chosen])
            normal = len(self.prompts.compose("x")[0])
            parts.append(average([(one[:normal], one[normal:]) for one in rows]))
        return torch.cat(parts)

    def text_features(self, class_names: Sequence[str]) -> Tensor:
        """Return the state vectors of each class, (classes, 2, dim); zeros if they depend on the image."""
        if self.text_follows_image:
            return torch.zeros(len(class_names), 2, self.clip.dim, device=self.clip.causal_mask.device)
        return self.text_vectors(class_names)
