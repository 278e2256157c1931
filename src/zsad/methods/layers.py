"""Which blocks of the image tower a method reads."""

from collections.abc import Sequence

from zsad.clip import Clip


def quarters(depth: int) -> list[int]:
    """Return the last blocks of the four quarters of a tower, rising; of 24 blocks 6, 12, 18 and 24."""
    return sorted({max(1, depth * part // 4) for part in (1, 2, 3, 4)})


def chosen_layers(
    clip: Clip, layers: Sequence[int] | None, otherwise: Sequence[int] | None = None, option: str = "layers"
) -> tuple[int, ...]:
    """Return the blocks that a user chose, or the default.

    Args:
        clip: The backbone.
        layers: Blocks, from 1; None for the default.
        otherwise: The default; None for the :func:`quarters`.
        option: What to call them in the message.

    Raises:
        ValueError: There are none, they do not rise, or the tower lacks one.
    """
    last = clip.depth
    chosen = tuple((otherwise or quarters(last)) if layers is None else layers)
    if not chosen or list(chosen) != sorted({n for n in chosen if 1 <= n <= last}):
        raise ValueError(f"{option} must rise and lie in 1..{last} for '{clip.name}', got {list(chosen)}.")
    return chosen
