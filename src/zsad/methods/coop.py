"""CoOp: learned context before "normal <class>" and "anomalous <class>", the prompt-learning baseline."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.clip import Clip
from zsad.functional.maps import probability, similarity, to_grid, upsample
from zsad.methods.prompt_learner import PromptLearner, PromptMethod
from zsad.types import Batch, Context, Prediction


class CoOp(PromptMethod):
    """Learn one context for both states of all classes from image labels alone; patches are plain CLIP's.

    Zhou et al., IJCV 2022, arXiv 2109.01134, as a zero-shot anomaly baseline in AnomalyCLIP, arXiv 2310.18961,
    appendix A.2. No code of that adaptation was released; what it leaves open (50 epochs, no augmentation, maps from
    ordinary patch tokens) is our reading. A pixel AUROC *below* one half is what the paper reports for it.

    Args:
        backbone: Backbone name or a loaded one.
        n_ctx: Context vectors, shared by both states and all classes.
        normal_words: Words after the context, ``{}`` is the class name with spaces for underscores.
        abnormal_words: The same for the anomalous prompt.
        feature_layer: Block, from 1, whose patch tokens give the map; None is the last.
        cls_ln_post: Whether the class token passes the last LayerNorm, as in CLIP.
        temperature: Divisor of the cosines; None multiplies them with the model's own scale instead (100 for OpenAI's).
        lr: Learning rate of SGD.
        momentum: Of SGD.
        weight_decay: Of SGD.
        lr_schedule: ``"cosine"``: first epoch at ``warmup_lr``, then the half cosine over all epochs of the Trainer.
        warmup_lr: Learning rate of the first epoch of the cosine schedule.
        **kwargs: Options of :class:`~zsad.methods.prompt_learner.PromptMethod`.

    Raises:
        ValueError: If an option is out of range for the backbone.
    """

    published_epochs = 50
    published_batch_size = 32

    def __init__(
        self,
        backbone: str | Clip = PromptMethod.published_backbone,
        n_ctx: int = 16,
        normal_words: str = "normal {}",
        abnormal_words: str = "anomalous {}",
        feature_layer: int | None = None,
        cls_ln_post: bool = True,
        temperature: float | None = None,
        lr: float = 0.002,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        lr_schedule: Literal["cosine", "constant"] = "cosine",
        warmup_lr: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        last = self.clip.depth
        self.layer = last if feature_layer is None else feature_layer
        if not 1 <= self.layer <= last:
            raise ValueError(f"feature_layer must lie in 1..{last} for '{self.clip.name}', got {feature_layer}.")
        if temperature is not None and temperature <= 0:
            raise ValueError(f"temperature must be > 0, or None for the model's own scale, got {temperature}.")
        if lr_schedule not in ("cosine", "constant"):
            raise ValueError(f"lr_schedule must be 'cosine' or 'constant', got '{lr_schedule}'.")
        self.cls_ln_post = cls_ln_post
        self.temperature = 1 / self.clip.logit_scale.item() if temperature is None else temperature
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.lr_schedule = lr_schedule
        self.warmup_lr = warmup_lr
        self.prompts = PromptLearner(self.clip, normal_words, abnormal_words, n_ctx, share_context=True, seed=self.seed)

    def class_token_embedding(self, cls: Tensor) -> Tensor:
        """Return what the image score compares with the text, of the class token after the last block, (batch, width).

        Methods that have it can be explained by the relevance of patches.
        """
        return self.clip.project(self.clip.ln_post(cls) if self.cls_ln_post else cls)

    def image_tokens(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image embedding (batch, dim) and a block's tokens (batch, 1 + patches, dim), class token first.

        Neither has unit length.
        """
        last, kept = self.clip.run_image(self.clip.embed_image(image), keep=(self.layer,))
        return self.class_token_embedding(last[:, 0]), self.clip.project(self.clip.ln_post(kept[self.layer]))

    def score(self, image: Tensor, text: Tensor, context: Context) -> Prediction:
        """Return the enlarged probability of "anomalous" per patch, and that of the image embedding."""
        cls, tokens = self.image_tokens(image)
        prob = to_grid(probability(similarity(tokens[:, 1:], text), self.temperature), self.clip.grid(image))
        return Prediction(
            anomaly_map=upsample(prob, (image.shape[-2], image.shape[-1])),
            pred_score=probability(similarity(cls, text), self.temperature),
        )

    @torch.no_grad()
    def frozen_features(self, image: Tensor) -> dict[str, Tensor]:
        """Return the image embedding ``cls`` (batch, dim); training looks at nothing else."""
        return {"cls": self.image_tokens(image)[0]}

    def cache_settings(self) -> dict[str, Any]:
        """Return the options that decide the image embedding."""
        return {"cls_ln_post": self.cls_ln_post}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy of the image labels, each image against the pair of its own class.

        Raises:
            ValueError: If labels are missing.
        """
        self.require(batch, "gt_label")
        features = self.features_of(batch)
        cosines = similarity(features["cls"], self.batch_text(batch["class_name"]))
        return {"loss": F.cross_entropy(cosines / self.temperature, batch["gt_label"])}

    def learning_rate(self, epoch: int, epochs: int) -> float:
        """Return the learning rate of an epoch, from 0, of a fit of so many epochs."""
        if self.lr_schedule == "constant":
            return self.lr
        return self.warmup_lr if epoch == 0 else self.lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))

    def configure_optimizers(self) -> Any:
        """Return SGD on the context, and the schedule, stepped once per epoch.

        Raises:
            ValueError: If the Trainer has no number of epochs for the cosine.
        """
        optimizer = torch.optim.SGD(
            self.prompts.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        if self.lr_schedule == "constant":
            return optimizer
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise ValueError(f"CoOp's cosine schedule needs the number of epochs, got Trainer(max_epochs={epochs}).")
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda epoch: self.learning_rate(epoch, epochs) / self.lr
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
