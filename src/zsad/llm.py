"""Language models that describe normal and abnormal objects: three back-ends and the cache of their answers."""

import hashlib
import json
import os
import random
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable
from urllib.parse import urlsplit

import httpx

from zsad import __version__

CacheMode = Literal["cache_first", "offline", "refresh"]

PACKAGED = "hand-written stand-in"
"""Name of the packaged answers: written by hand, no language model's."""

_RETRIED = {408, 409, 429}
_LONGEST_WAIT_S = 120.0
_LARGEST_ANSWER = 8 * 2**20  # bytes; a description list has some thousand


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


# ---- packaged answers


@dataclass(frozen=True)
class PackagedLLM:
    """The packaged answers: hand-written stand-ins, no network, no key.

    They are fewer and plainer than a language model's: numbers obtained with them are not the paper's setting. A text
    may hold ``{article_class}``, which stands for the class with its article.
    """

    @property
    def name(self) -> str:
        """``"hand-written stand-in"``."""
        return PACKAGED

    @cached_property
    def _entries(self) -> dict[tuple[str, str], list[str]]:
        data = json.loads((files("zsad.prompts") / "alfa_llm_answers.json").read_text(encoding="utf-8"))
        labels = {"prompts": lambda entry: entry["label"], "descriptors": lambda entry: "descriptors"}
        return {(entry["class"], labels[entry["kind"]](entry)): entry["answers"] for entry in data["entries"]}

    def complete(self, query: str, *, class_name: str, label: str, n: int = 1, seed: int = 0) -> list[str]:
        """Return all answers for a class or the generic ones, one sentence per text; ``n`` and ``seed`` are ignored."""
        if ("*", label) not in self._entries:
            known = sorted({label for _, label in self._entries})
            raise ValueError(f"There are packaged answers for the labels {known}, got '{label}'.")
        return list(self._entries.get((class_name, label), self._entries["*", label]))


# ---- an endpoint


class _TransientError(Exception):
    """A failure that another attempt may cure."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class OpenAICompatibleLLM:
    """A model behind an OpenAI-compatible HTTP endpoint, hosted or on this machine.

    The key is read from the environment at each request and kept nowhere; an empty one is allowed (local servers).
    Connection errors, time-outs, unreadable answers and the statuses 408, 409, 429 and 5xx are retried, after the time
    the server asks for (``Retry-After``) or with doubling pauses; others fail at once with the server's message.

    Args:
        model: Name of the model, as the server knows it.
        base_url: Address up to and without ``/chat/completions``.
        api_key_env: Environment variable that holds the key.
        endpoint: ``"chat"``, or ``"completions"`` for text models such as the paper's ``gpt-3.5-turbo-instruct``.
        temperature: Of the sampling.
        max_tokens: Greatest length of an answer.
        timeout_s: Seconds that one attempt may take.
        retries: Attempts after the first.
        backoff_s: Pause after the first failure in seconds; it doubles, with jitter.

    Raises:
        ValueError: If an option is out of range, or the address carries a secret or a query.
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str = "OPENAI_API_KEY"
    endpoint: Literal["chat", "completions"] = "chat"
    temperature: float = 0.7
    max_tokens: int = 1024
    timeout_s: float = 60.0
    retries: int = 5
    backoff_s: float = 1.0

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        if url.username or url.password or url.query or url.fragment:  # would be logged and saved
            raise ValueError(
                "base_url must hold no user name, password, query or fragment; put the key into the environment "
                f"variable {self.api_key_env}."
            )
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"base_url must look like 'https://host/v1', got '{self.base_url}'.")
        if self.endpoint not in ("chat", "completions"):
            raise ValueError(f"endpoint must be 'chat' or 'completions', got '{self.endpoint}'.")
        if not self.model:
            raise ValueError("model must name a model of the server, got an empty text.")
        for option, least in (
            ("temperature", 0),
            ("max_tokens", 1),
            ("timeout_s", 1e-3),
            ("retries", 0),
            ("backoff_s", 0),
        ):
            if not getattr(self, option) >= least:
                raise ValueError(f"{option} must be at least {least}, got {getattr(self, option)}.")

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model

    @property
    def url(self) -> str:
        """The address that is asked."""
        path = {"chat": "chat/completions", "completions": "completions"}[self.endpoint]
        return f"{self.base_url.rstrip('/')}/{path}"

    def complete(self, query: str, *, class_name: str = "", label: str = "", n: int = 1, seed: int = 0) -> list[str]:
        """Return ``n`` sampled texts; a server may return fewer. See :class:`LLM`."""
        payload: dict[str, Any] = {
            "model": self.model,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "n": n,
            "seed": seed,
        }
        payload |= {"messages": [{"role": "user", "content": query}]} if self.endpoint == "chat" else {"prompt": query}
        key = self._key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        secure = (
            urlsplit(self.base_url).scheme != "http"
        )  # loading certificates takes longer than a local server's answer
        with httpx.Client(timeout=self.timeout_s, headers=headers, verify=secure) as client:
            for attempt in range(self.retries + 1):
                try:
                    return [_without(key, text) for text in self._attempt(client, payload, key)]
                except _TransientError as error:
                    pause = self.backoff_s * 2**attempt * random.uniform(0.75, 1.25)
                    pause = min(pause, _LONGEST_WAIT_S) if error.wait_s is None else error.wait_s
                    reason = _without(key, str(error))
                    if attempt == self.retries:
                        raise LLMError(
                            f"No answer from {self.url} (model '{self.model}') in {attempt + 1} attempt(s); "
                            f"the last: {reason}"
                        ) from None
                    if pause > _LONGEST_WAIT_S:
                        raise LLMError(
                            f"{self.url} (model '{self.model}') asks to wait {pause:.0f} s, more than the "
                            f"{_LONGEST_WAIT_S:.0f} s that are waited for: {reason} Try again later."
                        ) from None
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _key(self) -> str:
        key = os.environ.get(self.api_key_env, "").strip()
        if not key.isascii() or not key.isprintable():
            raise ValueError(
                f"The environment variable {self.api_key_env} holds characters that no HTTP header may have."
            )
        return key

    def _attempt(self, client: httpx.Client, payload: dict[str, Any], key: str) -> list[str]:
        deadline = time.monotonic() + self.timeout_s  # httpx limits each read, so a dripping server never times out
        body = bytearray()
        try:
            with client.stream("POST", self.url, json=payload) as response:
                for part in response.iter_bytes():
                    body += part
                    if time.monotonic() > deadline:
                        raise _TransientError(f"the answer was not complete after {self.timeout_s:g} s.")
                    if len(body) > _LARGEST_ANSWER:
                        raise _TransientError(f"the answer is larger than {_LARGEST_ANSWER} bytes.")
        except httpx.TimeoutException:
            raise _TransientError(f"no answer within {self.timeout_s:g} s.") from None
        except httpx.RequestError as error:
            raise _TransientError(f"{type(error).__name__}: {error}.") from None
        text = body.decode("utf-8", errors="replace")
        status = response.status_code
        if status in _RETRIED or status >= 500:
            raise _TransientError(f"HTTP {status}: {_message(text)}", _retry_after(response.headers.get("retry-after")))
        if status != 200:
            hint = f" The key is read from the environment variable {self.api_key_env}, which is "
            hint = (hint + ("set." if key else "not set.")) if status in (401, 403) else ""
            to = f" It points to {response.headers['location']}." if "location" in response.headers else ""
            raise LLMError(
                _without(key, f"{self.url} (model '{self.model}') answered HTTP {status}: {_message(text)}{to}{hint}")
            )
        return self._texts(text)

    def _texts(self, body: str) -> list[str]:
        try:
            choices = json.loads(body)["choices"]
            texts = [one["message"]["content"] if self.endpoint == "chat" else one["text"] for one in choices]
            cut = [one.get("finish_reason") == "length" for one in choices]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise _TransientError(f"not an answer of a {self.endpoint} endpoint: {_message(body)}") from None
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise _TransientError(f"an answer without text: {_message(body)}")
        return [_whole_lines(text) if short else text for text, short in zip(texts, cut, strict=True)]


def _without(key: str, text: str) -> str:
    """Return text with the key blotted out: servers quote what they were sent. Short ones are no secret ("EMPTY")."""
    return text.replace(key, "***") if len(key) >= 8 else text


def _whole_lines(text: str) -> str:
    """Return text without its last line, which the length limit cut in the middle; a single line stays."""
    return text.rstrip().rpartition("\n")[0] or text


def _message(body: str) -> str:
    try:
        error = json.loads(body)["error"]
        body = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    text = " ".join(str(body).split())
    return f"'{text[:300]}'" + (" ..." if len(text) > 300 else "")


def _retry_after(header: str | None) -> float | None:
    """Return the seconds to wait that a server asks for, as a number or as a date; None if it does not say."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
    return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())


# ---- a model on this machine


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

    @cached_property
    def _loaded(self) -> Any:
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


# ---- choosing one


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


# ---- cache


def default_cache_dir() -> Path:
    """Return where answers are kept: ``zsad/llm`` in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "zsad" / "llm"


class AnswerCache:
    """Answers of live back-ends on disk, one JSON file per request; from its second run a benchmark needs no network.

    Args:
        directory: Folder; None for :func:`default_cache_dir`.
        mode: ``"cache_first"`` asks the model only for what is missing, ``"offline"`` never, ``"refresh"`` always.

    Raises:
        ValueError: If the mode is unknown.
    """

    def __init__(self, directory: str | Path | None = None, mode: CacheMode = "cache_first") -> None:
        if mode not in get_args(CacheMode):
            raise ValueError(f"The cache mode must be one of {list(get_args(CacheMode))}, got '{mode}'.")
        self.directory = default_cache_dir() if directory is None else Path(directory).expanduser()
        self.mode: CacheMode = mode

    @staticmethod
    def request(llm: LLM, query: str, n: int, seed: int) -> dict[str, Any]:
        """Return what identifies a request; the server's address does not."""
        temperature = getattr(llm, "temperature", None)
        return {
            "model": llm.name,
            "query": query,
            "temperature": None if temperature is None else float(temperature),
            "max_tokens": getattr(llm, "max_tokens", None),
            "n": n,
            "seed": seed,
        }

    def path(self, request: Mapping[str, Any]) -> Path:
        """Return the file of a request, named by the SHA-256 of its canonical JSON."""
        canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return self.directory / f"{hashlib.sha256(canonical.encode(errors='backslashreplace')).hexdigest()}.json"

    def read(self, request: Mapping[str, Any]) -> list[str] | None:
        """Return the stored raw texts; None if the model is to be asked.

        Raises:
            OfflineError: In mode ``"offline"``, if there are none; the message has the query.
        """
        if self.mode == "refresh":
            return None
        path, problem = self.path(request), "is not in the cache"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            texts = stored["texts"]
            if {key: stored[key] for key in request} == dict(request) and _is_texts(texts):
                return list(texts)
            problem = "is in the cache, but the file belongs to another request"
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            problem = "is in the cache, but its file is damaged"
        if self.mode == "offline":
            raise OfflineError(
                f"The answer of '{request['model']}' to '{request['query']}' (seed {request['seed']}) {problem} "
                f"({path}), and the cache mode is 'offline'. Ask once with 'cache_first' where the model is reached."
            )
        return None

    def write(self, request: Mapping[str, Any], texts: Sequence[str]) -> None:
        """Store raw texts: a whole file or none, whatever happens meanwhile. A full or read-only disk only warns."""
        time_utc = datetime.now(timezone.utc).isoformat(timespec="seconds")
        content = json.dumps(
            {**request, "texts": list(texts), "time": time_utc, "zsad": __version__}, ensure_ascii=False, indent=1
        )
        temporary = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("wb", dir=self.directory, suffix=".part", delete=False) as file:
                temporary = Path(file.name)
                file.write(content.encode("utf-8", errors="replace"))
            temporary.replace(self.path(request))
        except OSError as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            warnings.warn(f"The answer could not be cached in '{self.directory}': {error}.", LLMWarning, stacklevel=2)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)
