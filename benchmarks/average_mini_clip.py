"""Average the weights of two cycles of one run of the mini CLIP.

Run from the repository root: ``python -m benchmarks.average_mini_clip <first> <second> --out <file>``.
"""

import argparse
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return header and tensors of a weights file."""
    with safe_open(str(path), framework="pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)


def average(first: dict[str, Tensor], second: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return ``share`` of the first and the rest of the second; whole numbers (token ids) are the second's."""
    return {
        name: (share * first[name].float() + (1 - share) * tensor.float()).half()
        if tensor.is_floating_point()
        else tensor
        for name, tensor in second.items()
    }


def main() -> None:
    """Write the average with the second file's header."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, default=0.35, help="share of the first file")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    header, tensors = read(options.second)
    save_file(average(read(options.first)[1], tensors, options.share), options.out, metadata=header)
    options.out.chmod(0o644)


if __name__ == "__main__":
    main()
