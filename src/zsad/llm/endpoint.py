"""A model behind an OpenAI-compatible endpoint."""

import json
import os
import random
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from zsad.llm.base import LLMError

if TYPE_CHECKING:  # imported with the first question: ALFA is in every list of methods
    import httpx

_RETRIED = {408, 409, 429}


_LONGEST_WAIT_S = 120.0


_LARGEST_ANSWER = 8 * 2**20  # bytes; a description list has some thousand


_CONNECT_S = 5.0  # to reach a server takes no longer; its answer may
_GIVE_UP_S = 30.0  # how long a server that could not be reached is not asked again


class _TransientError(Exception):
    """A failure that another attempt may cure."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _UnreachableError(_TransientError):
    """No connection: the machine is offline, or no server is there. Many attempts do not help, one more may."""


@dataclass(frozen=True)
class OpenAICompatibleLLM:
    """A model behind an OpenAI-compatible HTTP endpoint, hosted or on this machine.

    The key is read from the environment at each request and kept nowhere; an empty one is allowed (local servers).
    A server that cannot be reached is tried twice, then not for half a minute, so that many questions fail in seconds.
    Broken connections, time-outs, unreadable answers and the statuses 408, 409, 429 and 5xx are retried, after the time
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
        import httpx

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
        self._refuse_unreachable()
        timeout = httpx.Timeout(self.timeout_s, connect=min(self.timeout_s, _CONNECT_S))
        with httpx.Client(timeout=timeout, headers=headers, verify=secure) as client:
            for attempt in range(self.retries + 1):
                try:
                    return [_without(key, text) for text in self._attempt(client, payload, key)]
                except _TransientError as error:
                    pause = self.backoff_s * 2**attempt * random.uniform(0.75, 1.25)
                    pause = min(pause, _LONGEST_WAIT_S) if error.wait_s is None else error.wait_s
                    reason = _without(key, str(error))
                    unreachable = isinstance(error, _UnreachableError)
                    if unreachable and attempt >= 1:
                        _unreachable[self.url] = time.monotonic(), reason
                    if attempt == self.retries or (unreachable and attempt >= 1):
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

    def _refuse_unreachable(self) -> None:
        since, reason = _unreachable.get(self.url, (float("-inf"), ""))
        if time.monotonic() - since < _GIVE_UP_S:
            raise LLMError(f"{self.url} could not be reached a moment ago and is not asked again yet: {reason}")

    def _key(self) -> str:
        key = os.environ.get(self.api_key_env, "").strip()
        if not key.isascii() or not key.isprintable():
            raise ValueError(
                f"The environment variable {self.api_key_env} holds characters that no HTTP header may have."
            )
        return key

    def _attempt(self, client: "httpx.Client", payload: dict[str, Any], key: str) -> list[str]:
        import httpx

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
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _UnreachableError(f"{type(error).__name__}: {error}.") from None
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


_unreachable: dict[str, tuple[float, str]] = {}  # address -> when it could not be reached, and why


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
