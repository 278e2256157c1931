"""A back-end by its name."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from zsad.llm.base import LLM
from zsad.llm.endpoint import OpenAICompatibleLLM
from zsad.llm.local import HFLocalLLM
from zsad.llm.packaged import PackagedLLM


def load_llm(llm: str | Mapping[str, Any] | LLM) -> LLM:
    """Return a back-end.

    Args:
        llm: ``"packaged"``, ``"openai:<model>"``, ``"hf:<model>"``; or a mapping with the key ``backend``
            (``packaged``, ``openai``, ``hf``) and the back-end's options; or a back-end, which is returned as it is.

    Raises:
        ValueError: If there is no such back-end or option.
    """
    if isinstance(llm, str):
        backend, _, model = llm.partition(":")
        options: dict[str, Any] = {"model": model} if model else {}
    elif isinstance(llm, Mapping):
        options = dict(llm)
        backend = options.pop("backend", None)
    elif isinstance(llm, LLM):
        return llm
    else:
        raise TypeError(
            f"llm must be a text, a mapping or a back-end with name and complete(), got {type(llm).__name__}."
        )
    known: dict[str, Any] = {"packaged": PackagedLLM, "openai": OpenAICompatibleLLM, "hf": HFLocalLLM}
    if backend not in known:
        raise ValueError(f"Unknown language model '{llm}'. Use 'packaged', 'openai:<model>' or 'hf:<model>'.")
    try:
        return known[backend](**options)
    except TypeError as error:  # a missing or unknown option; the text names it
        raise ValueError(f"Language model '{backend}': {str(error).partition(') ')[2] or error}.") from None


def llm_config(llm: LLM) -> str | dict[str, Any]:
    """Return plain values from which :func:`load_llm` makes the same back-end, never a key; else its name."""
    for backend, kind in (("openai", OpenAICompatibleLLM), ("hf", HFLocalLLM)):
        if isinstance(llm, kind):
            return {"backend": backend, **asdict(llm)}
    return "packaged" if isinstance(llm, PackagedLLM) else llm.name
