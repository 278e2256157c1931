"""Where a method computes, and how values get there and back without making it wait."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor


def find_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device of that name; ``"auto"`` is the first CUDA device, else Apple's, else the CPU.

    Raises:
        ValueError: The name is unknown or the device is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except Exception as error:  # torch raises RuntimeError, AssertionError and others here
        reason = str(error).splitlines()[0]
        raise ValueError(f"Device '{device}' cannot be used: {reason} Use 'auto', 'cpu', 'cuda:0' or 'mps'.") from error
    return found


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return values on a device; on CUDA the copy runs beside what the device computes, from memory that stays put.

    Args:
        values: On the CPU, any shape.
        device: Where they go.
    """
    if device.type != "cuda":
        return values.to(device)
    copies, computing = _copies(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copies):
        moved = values.pin_memory().to(device, non_blocking=True)
    computing.wait_stream(copies)
    moved.record_stream(computing)  # else the allocator may give the memory away while it is read
    return moved


def to_host(*values: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Ask for values and return what waits for them; on CUDA later work of the device does not delay them."""
    if not values[0].is_cuda:
        return lambda: tuple(one.cpu() for one in values)
    arriving = tuple(one.to("cpu", non_blocking=True) for one in values)  # into pinned memory
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(values[0].device))

    def wait() -> tuple[Tensor, ...]:
        done.synchronize()
        return arriving

    return wait


@cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
