"""A language model on this machine."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from zsad.llm.base import LLMError
from zsad.llm.endpoint import _whole_lines


@dataclass(frozen=True)
class HFLocalLLM:
    """A Hugging Face text-generation model on this machine; needs the extra ``llm``.

    Args:
        model: Name on the hub, or a folder.
        revision: Branch, tag or commit of the model.
        device: Where it runs; None takes the GPU if there is one.
        dtype: Its precision, e.g. ``"bfloat16"``.
        max_new_tokens: Greatest length of an answer.
        temperature: Of the sampling.
    """

    model: str
    revision: str | None = None
    device: str | None = None
    dtype: str = "float32"
    max_new_tokens: int = 1024
    temperature: float = 0.7

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.max_new_tokens < 1:
            raise ValueError(
                f"temperature must be above 0 and max_new_tokens at least 1, got {self.temperature} and "
                f"{self.max_new_tokens}."
            )

    @property
    def name(self) -> str:
        """The model and, if given, its revision."""
        return self.model if self.revision is None else f"{self.model}@{self.revision}"

    @property
    def max_tokens(self) -> int:
        """``max_new_tokens``, under the name that the cache key uses."""
        return self.max_new_tokens

    @property
    def _loaded(self) -> Any:
        loaded, error = self._loaded_or_error
        if error is not None:  # the first answer holds for all classes: offline, each attempt takes long
            raise error
        return loaded

    @cached_property
    def _loaded_or_error(self) -> tuple[Any, LLMError | None]:
        try:
            return self._load(), None
        except LLMError as error:
            return None, error

    def _load(self) -> Any:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise LLMError(
                f"The local language model '{self.model}' needs transformers: pip install 'zsad[llm]'; or use the "
                f"packaged answers."
            ) from error
        import torch

        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"dtype must name a torch dtype such as 'float32' or 'bfloat16', got '{self.dtype}'.")
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model, revision=self.revision)
            model: Any = AutoModelForCausalLM.from_pretrained(self.model, revision=self.revision)
        except (OSError, ValueError) as error:
            raise LLMError(
                f"The local language model '{self.name}' cannot be loaded: {str(error).splitlines()[0]}"
            ) from error
        return tokenizer, model.to(device=device, dtype=dtype).eval()

    def complete(self, query: str, *, class_name: str = "", label: str = "", n: int = 1, seed: int = 0) -> list[str]:
        """Return ``n`` sampled texts; the same seed gives the same texts on the same machine. See :class:`LLM`."""
        import torch

        tokenizer, model = self._loaded
        if tokenizer.chat_template:
            turns = [{"role": "user", "content": query}]
            query = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        # a chat template already wrote the special tokens
        inputs = tokenizer(query, return_tensors="pt", add_special_tokens=not tokenizer.chat_template)
        ids, mask = inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device)
        end = tokenizer.eos_token_id
        devices = [model.device.index or 0] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(seed)
            sequences = model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                temperature=self.temperature,
                max_new_tokens=self.max_new_tokens,
                num_return_sequences=n,
                pad_token_id=end if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
            )[:, ids.shape[1] :]
        texts = []
        for sequence in sequences:
            text = tokenizer.decode(sequence, skip_special_tokens=True)
            cut = len(sequence) >= self.max_new_tokens and (end is None or end not in sequence.tolist())
            texts.append(_whole_lines(text) if cut else text)
        return texts
