"""One comparison of a computed value with a stored one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Outcome:
    """What was computed, what was expected and how far apart they may be.

    Numbers and tensors are compared element by element in float64; text and lists of text must be equal.

    Args:
        name: Name of the output in ``cases.json``.
        got: The library's value.
        expected: The stored value.
        atol: Absolute tolerance of every element.
        rtol: Tolerance relative to the expected element.
        median_atol: Tolerance of the median difference, if there is one.
        atol_at: Absolute tolerance at single flat positions, in place of ``atol``.
        norm_rtol: Tolerance of the norm of the difference relative to the norm of the expected tensor.
        intermediate: True if the value only helps to localise a mismatch.
        note: Mode or whatever else tells two outcomes of one name apart.
    """

    name: str
    got: Tensor | float | str | list[Any]
    expected: Tensor | float | str | list[Any]
    atol: float
    rtol: float = 0.0
    median_atol: float | None = None
    atol_at: dict[int, float] | None = None
    norm_rtol: float | None = None
    intermediate: bool = False
    note: str = ""

    @property
    def difference(self) -> float:
        """Greatest absolute difference; infinite if shapes differ, text differs or NaN meets a number."""
        pair = self._numbers()
        if pair is None:
            return 0.0 if self.got == self.expected else float("inf")
        got, expected = pair
        if got.shape != expected.shape:
            return float("inf")
        return float(_distance(got, expected).max()) if got.numel() else 0.0

    @property
    def passed(self) -> bool:
        """Whether shapes are equal and every tolerance is kept."""
        pair = self._numbers()
        if pair is None:
            return bool(self.got == self.expected)
        got, expected = pair
        if got.shape != expected.shape:
            return False
        if not got.numel():
            return True
        distance = _distance(got, expected)
        allowed = torch.full_like(distance, self.atol)
        for position, atol in (self.atol_at or {}).items():
            allowed.view(-1)[position] = atol
        if self.rtol:
            allowed += self.rtol * expected.abs().nan_to_num(0.0, 0.0, 0.0)
        if not bool((distance <= allowed).all()):
            return False
        if self.median_atol is not None and not float(distance.median()) <= self.median_atol:
            return False
        return self.norm_rtol is None or float(distance.norm()) <= self.norm_rtol * float(expected.norm())

    def _numbers(self) -> tuple[Tensor, Tensor] | None:
        """Both values as float64 tensors, or None if either is text."""
        try:
            got, expected = (torch.as_tensor(value).detach().cpu() for value in (self.got, self.expected))
        except (TypeError, ValueError, RuntimeError):
            return None
        return got.double(), expected.double()


def _distance(got: Tensor, expected: Tensor) -> Tensor:
    """Absolute difference; 0 where both are the same infinity or both NaN, infinite where one of them is NaN."""
    distance = (got - expected).abs()
    same = (got == expected) | (got.isnan() & expected.isnan())
    return torch.where(same, 0.0, torch.where(distance.isnan(), float("inf"), distance))
