"""AnoVL's choices: where the released code and the paper differ, and the prompt sets of table 4."""

from dataclasses import replace
from typing import Any

from zsad.prompts import Prompts

_DOMAINS: dict[str, list[str] | None] = {"full": None, "states": ["generic"], "base": ["generic"]}
_BASE_STATES = {"normal": ["normal {}"], "anomalous": ["abnormal {}"]}

VARIANTS: dict[str, dict[str, Any]] = {
    "released": {
        "vv_input": "stream",
        "views": "22",
        "activation": "tanh",
        "bias": True,
        "adapter_init": "random",
        "noise_at": "input",
        "pseudo_loss": "entropy",
    },
    "paper": {
        "vv_input": "self",
        "views": "none",
        "activation": "softmax",
        "bias": False,
        "adapter_init": "text",
        "noise_at": "output",
        "pseudo_loss": "tfa",
    },
}
"""What the released code does and what the paper says, where they differ: defaults of the options of these names."""


def one_of(name: str, value: str, known: Any) -> None:
    """Raise a :class:`ValueError` if a value is none of the known ones."""
    if value not in known:
        raise ValueError(f"{name} must be one of {list(known)}, got '{value}'.")


def choose_prompts(prompts: Prompts, prompt_set: str) -> tuple[Prompts, list[str] | None]:
    """Return the prompts and domains of a row of table 4; no domains are those of the class's group.

    Args:
        prompts: The whole list.
        prompt_set: ``"full"``, ``"states"`` or ``"base"``; the latter two need a domain named ``generic``.

    Raises:
        ValueError: If there is no such row, or no such domain.
    """
    one_of("prompt_set", prompt_set, _DOMAINS)
    if prompt_set != "full" and "generic" not in prompts.domains:
        raise ValueError(
            f"prompt_set='{prompt_set}' needs a domain 'generic', the prompts have {sorted(prompts.domains)}."
        )
    return replace(prompts, states=_BASE_STATES) if prompt_set == "base" else prompts, _DOMAINS[prompt_set]
