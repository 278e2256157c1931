"""A method as a graph: 8-bit pixels and the number of a class in, score and map out; all that is text is a constant."""

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from zsad.methods import Context, Method
from zsad.methods.memory import Memory

UNBOUND = "object"
"""The one entry of a method whose text does not depend on the class."""


class ExportError(ValueError):
    """A method, or a method with these options, cannot be exported; the message says why and what can be done."""


class Graph(nn.Module):
    """What is exported; nothing of the method is changed.

    Args:
        method: In eval mode, on the CPU, in float32.
        class_names: In the order of ``class_index``.

    Raises:
        ExportError: The method has no graph of its own image alone.
    """

    words: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, method: Method, class_names: Sequence[str]) -> None:
        super().__init__()
        if reason := obstacle(method):
            raise ExportError(f"{type(method).__name__} is not exported: {reason}")
        few_shot = method.is_few_shot(class_names)  # fetches references
        self.size = method.protocol.size
        with torch.no_grad():
            words = method.text(class_names)
            method(torch.zeros(1, 3, self.size, self.size), [class_names[0]])  # tables of positions become constants
        self.method = _stripped(method)
        self.method.memory = Constants(method.memory, class_names) if few_shot else Memory()
        self.register_buffer("words", words.clone(), persistent=False)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(method.protocol, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, pixels: Tensor, class_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (batch,) and maps (batch, height, width).

        Args:
            pixels: (batch, 3, height, width) uint8, RGB.
            class_index: (batch,) int64.
        """
        image = (pixels.to(torch.float32) / 255 - self.mean) / self.std
        # a memory of constants takes the numbers of classes where one of names takes names
        context = Context(class_index, ())  # type: ignore[arg-type]
        prediction = self.method.assess(image, self.words[class_index], context)
        return prediction.pred_score, prediction.anomaly_map


class Constants(Memory):
    """The references of some classes as constants, looked up by the number of the class.

    Args:
        memory: That of the method.
        class_names: In the order of ``class_index``.
    """

    def __init__(self, memory: Memory, class_names: Sequence[str]) -> None:
        super().__init__()
        for kind in memory.banks(class_names[0]):
            banks = [memory.bank(name, kind) for name in class_names]
            longest = max(bank.shape[0] for bank in banks)
            # a row that stands there twice is as near as it was
            rows = [torch.cat([bank, bank[:1].expand(longest - bank.shape[0], -1)]) for bank in banks]
            self.register_buffer(_bank(kind), torch.stack(rows), persistent=False)

    @property
    def classes(self) -> list[str]:
        """Not empty: the memory is in use."""
        return [UNBOUND]

    def distance(self, kind: str, features: Tensor, class_names: Sequence[str]) -> Tensor:
        """Return 1 minus the cosine to the nearest entry of each image's class, (batch, n).

        Args:
            kind: Which bank.
            features: (batch, n, dim), any length.
            class_names: (batch,) numbers of classes.
        """
        unit = nn.functional.normalize(features.float(), dim=-1)
        bank = self.get_buffer(_bank(kind))[cast(Any, class_names)]  # (batch, entries, dim)
        return (1 - (unit @ bank.transpose(1, 2)).amax(dim=-1)).clamp_min(0)


def _bank(kind: str) -> str:
    return f"bank_{kind.replace('.', '_')}"


def obstacle(method: Method) -> str | None:
    """Return why a method has no graph, as a sentence that ends with what can be done; None if it has one."""
    if method.clip.precision != "32":
        return f"its backbone is rounded to {method.clip.precision}; load it with precision='32'."
    if method.protocol.resize != "squash":
        return "its images keep their shape, and a file has one image size; take an option that squashes them."
    return method.export_obstacle()


def _stripped(method: Method) -> Method:
    """Return the method without its text tower; modules are shared, not copied."""
    clip, model = (copy.copy(one) for one in (method.clip, method.clip.model))
    stripped = copy.copy(method)
    for one in (stripped, clip, model):
        one._modules, one._parameters = dict(one._modules), dict(one._parameters)
        one._buffers = dict(one._buffers)
    for name in ("transformer", "token_embedding", "ln_final"):
        model._modules.pop(name, None)
    for name in ("positional_embedding", "text_projection"):
        model._parameters.pop(name, None)
        model._modules.pop(name, None)
    clip._modules["model"] = model
    stripped._modules["clip"] = clip
    stripped._modules.pop("evaluator", None)
    stripped.shots, stripped.references = 0, None
    if hasattr(stripped, "chunk"):
        vars(stripped)["chunk"] = None  # all windows at once: a loop over chunks would fix the batch
    return stripped
