"""What a language model must offer, and what can go wrong."""

from typing import Protocol, runtime_checkable


class LLMError(OSError):
    """A language model gave no answer; the message says what was tried and what the server said."""


class OfflineError(FileNotFoundError):
    """An answer is not in the cache, and the cache may not ask for it."""


class LLMWarning(UserWarning):
    """An answer was partly or wholly unusable."""


@runtime_checkable
class LLM(Protocol):
    """What a language model must offer; attributes ``temperature`` and ``max_tokens``, if any, enter the cache key."""

    @property
    def name(self) -> str:
        """What to call the model; part of the cache key."""

    def complete(self, query: str, *, class_name: str, label: str, n: int, seed: int) -> list[str]:
        """Return raw texts.

        Args:
            query: The question.
            class_name: Raw name of the class; live back-ends ignore it.
            label: ``"normal"``, ``"abnormal"`` or ``"descriptors"``; live back-ends ignore it.
            n: How many texts to sample.
            seed: Fixes the sampling where the model allows it.

        Raises:
            LLMError: If there is no usable answer.
        """
