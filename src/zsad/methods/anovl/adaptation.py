"""AnoVL's test-time adaptation: a one-layer adapter per image, trained on that image's own tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.functional.maps import similarity

Activation = Literal["tanh", "softmax", "none"]
PseudoLoss = Literal["entropy", "tfa", "tfa_cross_entropy"]
MIX = 0.5
"""Share of the adapter's output; it has no influence on maps and losses if the noise comes before the adapter."""


@dataclass(frozen=True)
class Recipe:
    """How adapters are trained; the defaults are the released code's (AnoVL, arXiv 2308.15939, section 3.4).

    Args:
        activation: What follows the linear layer; ``"softmax"`` runs over all rows.
        noise_at: Whether the noise enters before the adapter (released) or after it (equation 10).
        pseudo_loss: ``"entropy"`` of the adapted prediction (released), or ``"tfa"``: the prediction of the unadapted
            tokens as pseudo-label, abnormal state only (equation 11); ``"tfa_cross_entropy"`` with both states.
        entropy_weight: Weight of that loss.
        discriminative_weight: Weight of the loss that calls clean tokens normal and noisy ones abnormal.
        temperature: Divisor of the cosines.
        lr: AdamW's rate.
        betas: AdamW's decay rates of the moments.
        eps: AdamW's summand in the denominator.
        weight_decay: AdamW's decoupled decay.
    """

    activation: Activation = "tanh"
    noise_at: Literal["input", "output"] = "input"
    pseudo_loss: PseudoLoss = "entropy"
    entropy_weight: float = 1.0
    discriminative_weight: float = 0.5
    temperature: float = 1.0
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        for name, known in (
            ("activation", ("tanh", "softmax", "none")),
            ("noise_at", ("input", "output")),
            ("pseudo_loss", ("entropy", "tfa", "tfa_cross_entropy")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {list(known)}, got '{getattr(self, name)}'.")


class Losses(NamedTuple):
    """Losses before a step, each (images,)."""

    total: Tensor
    pseudo: Tensor
    discriminative: Tensor


OptimizerState = list[dict[str, Tensor]]
"""AdamW's state of one image's parameters: weight, then bias."""


class Adaptation:
    """Adapters of several images, trained side by side; each gives what it would give alone.

    ``adapter(x) = (1 - 0.5) x + 0.5 * activation(unit(x) W^T + b) R`` with learnable ``W`` and ``b``; the constant rows
    ``R`` are the prompts' features, or absent for a plain linear adapter. Make and use it outside inference mode with
    gradients enabled and autocast off, as :func:`train` does.

    Args:
        tokens: Patch tokens of each image, (images, n, dim), any length.
        text: Normal and abnormal text vector of each image's class, (images, 2, dim).
        weight: First ``W`` of each image, (images, rows, dim).
        bias: First ``b`` of each image, (images, rows); None for a layer without one.
        rows: ``R`` of each image, (images, rows, dim); None for the linear adapter, where rows equals dim.
        recipe: How to train.
        pixels: Maps cosines (images, n, 2) to those over which the losses average, (images, m, 2); patches by default.
        states: Optimiser state of each image to start from, an empty list for a fresh one; they are changed in place.
    """

    def __init__(
        self,
        tokens: Tensor,
        text: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor | None,
        recipe: Recipe | None = None,
        pixels: Callable[[Tensor], Tensor] | None = None,
        states: Sequence[OptimizerState] | None = None,
    ) -> None:
        # clones: tensors made under inference mode cannot take part in autograd
        self.tokens, self.text = tokens.detach().clone().float(), text.detach().clone().float()
        self.rows = None if rows is None else rows.detach().clone().float()
        self.recipe = recipe or Recipe()
        self.pixels = pixels
        # one parameter per image: each has its own optimiser state, and its own step count if states are carried over
        self._weights = [one.detach().clone().float().requires_grad_() for one in weight]
        self._biases = [] if bias is None else [one.detach().clone().float().requires_grad_() for one in bias]
        r = self.recipe
        self._optimizer = torch.optim.AdamW(
            [*self._weights, *self._biases], lr=r.lr, betas=r.betas, eps=r.eps, weight_decay=r.weight_decay
        )
        for parameters, state in zip(self._parameters(), states or (), strict=False):
            for parameter, part in zip(parameters, state, strict=False):
                self._optimizer.state[parameter] = part
        with torch.no_grad():
            self._unadapted = self._log_probability(self._cosines(self.tokens)).exp()

    def _parameters(self) -> list[list[Tensor]]:
        return [list(one) for one in zip(*(side for side in (self._weights, self._biases) if side), strict=True)]

    @property
    def weight(self) -> Tensor:
        """Weights now, (images, rows, dim)."""
        return torch.stack(self._weights)

    @property
    def bias(self) -> Tensor | None:
        """Biases now, (images, rows)."""
        return torch.stack(self._biases) if self._biases else None

    @property
    def gradients(self) -> list[list[Tensor | None]]:
        """Gradients of the last step: per image of weight and bias."""
        return [[parameter.grad for parameter in one] for one in self._parameters()]

    @property
    def states(self) -> list[OptimizerState]:
        """Optimiser state of each image, to go on from."""
        return [[self._optimizer.state[parameter] for parameter in one] for one in self._parameters()]

    def adapter(self, tokens: Tensor) -> Tensor:
        """Return adapted tokens, (images, n, dim) -> (images, n, dim)."""
        hidden = torch.bmm(F.normalize(tokens, dim=-1), self.weight.transpose(1, 2))
        if self.bias is not None:
            hidden = hidden + self.bias[:, None]
        if self.recipe.activation == "tanh":
            hidden = hidden.tanh()
        elif self.recipe.activation == "softmax":
            hidden = hidden.softmax(dim=-1)
        if self.rows is not None:
            hidden = torch.bmm(hidden, self.rows)
        return (1 - MIX) * tokens + MIX * hidden

    def clean_and_noisy(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the adapted tokens without and with noise, each (images, n, dim)."""
        if self.recipe.noise_at == "output":
            clean = self.adapter(self.tokens)
            return clean, clean + noise
        n = self.tokens.shape[1]
        both = self.adapter(torch.cat([self.tokens, self.tokens + noise], dim=1))
        return both[:, :n], both[:, n:]

    def losses(self, clean: Tensor, noisy: Tensor) -> Losses:
        """Return the losses of adapted tokens; gradients flow through all of their factors."""
        log_clean, log_noisy = (self._log_probability(self._cosines(tokens)) for tokens in (clean, noisy))
        if self.recipe.pseudo_loss == "entropy":
            pseudo = -(log_clean.exp() * log_clean).sum(dim=-1)
        elif self.recipe.pseudo_loss == "tfa":
            pseudo = -self._unadapted[..., 1] * log_clean[..., 1]
        else:
            pseudo = -(self._unadapted * log_clean).sum(dim=-1)
        discriminative = -(log_noisy[..., 1] + log_clean[..., 0])
        means = pseudo.mean(dim=1), discriminative.mean(dim=1)
        return Losses(self.recipe.entropy_weight * means[0] + self.recipe.discriminative_weight * means[1], *means)

    def step(self, noise: Tensor) -> Losses:
        """Train once on clean tokens and noisy copies; return the losses before the step.

        Args:
            noise: (images, n, dim), already scaled.
        """
        self._optimizer.zero_grad()
        losses = self.losses(*self.clean_and_noisy(noise))
        losses.total.sum().backward()  # the images share no parameter
        self._optimizer.step()
        return Losses(*(value.detach() for value in losses))

    def adapted(self) -> Tensor:
        """Return the adapted clean tokens, (images, n, dim), detached."""
        with torch.no_grad():
            return self.adapter(self.tokens)

    def _cosines(self, tokens: Tensor) -> Tensor:
        cosines = similarity(tokens, self.text)
        return cosines if self.pixels is None else self.pixels(cosines)

    def _log_probability(self, cosines: Tensor) -> Tensor:
        return (cosines / self.recipe.temperature).log_softmax(dim=-1)


def train(noise: Tensor, **arguments: Any) -> tuple[Tensor, list[OptimizerState]]:
    """Return the adapted tokens of several images and their optimiser states; works under inference mode.

    Args:
        noise: One draw per step, (steps, images, n, dim), already scaled.
        **arguments: Those of :class:`Adaptation`.
    """
    device: str = arguments["tokens"].device.type
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
        adaptation = Adaptation(**arguments)
        for step in noise.clone():
            adaptation.step(step)
        return adaptation.adapted(), adaptation.states
