"""Where a method computes."""

import torch


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
