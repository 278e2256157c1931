"""A machine without CUDA runs what claims to lie there: shapes, types and devices, no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


def there(x: Tensor) -> Tensor:
    """A tensor like this one that claims to lie on the first CUDA device; inside :func:`fake_cuda`."""
    return torch.empty(x.shape, dtype=x.dtype, device="cuda", requires_grad=x.requires_grad)


def move(module: nn.Module) -> None:
    """Replace every parameter, buffer and tensor that a module keeps, as ``.to("cuda")`` and a first call would."""
    for one in module.modules():
        for name, parameter in one._parameters.items():
            if parameter is not None:
                one._parameters[name] = nn.Parameter(there(parameter), requires_grad=parameter.requires_grad)
        for name, buffer in one._buffers.items():
            if buffer is not None:
                one._buffers[name] = there(buffer)
        for kept in (vars(one), *(kept for kept in vars(one).values() if isinstance(kept, dict))):
            kept |= {key: there(value) for key, value in kept.items() if type(value) is Tensor}


@contextmanager
def fake_cuda(*modules: nn.Module) -> Iterator[Any]:
    """Tensors made inside are fake; reading one, or mixing devices, raises."""
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        for module in modules:
            move(module)
        yield mode
