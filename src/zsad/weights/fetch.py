"""Fetch one file over HTTP without trusting the network: resumed, limited, compared, and only then under its name."""

import errno
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zsad.weights.expected import DownloadError, Expected, measure, mismatch

_REDIRECTS = 5
_LIMIT = 2 << 30
_LONGEST_WAIT = 120.0
_TEMPORARY = (408, 429, 500, 502, 503, 504)
Report = Callable[[int, int | None], None]
"""Called with (bytes so far, bytes in all or None)."""


class UnreachableError(DownloadError):
    """A server cannot be reached.

    Args:
        host: Its name.
        reason: Why, in a few words.
        attempts: How often it was tried.
    """

    def __init__(self, host: str, reason: str, attempts: int) -> None:
        super().__init__(f"{host} cannot be reached ({reason}), after {attempts} attempts.")
        self.host, self.reason = host, reason


class NoSpaceError(DownloadError):
    """The disk is full, or would be."""


class _TryAgainError(Exception):
    """Something that may be gone at the next attempt; ``answer`` is what to say if it is not."""

    def __init__(self, answer: DownloadError, wait: float | None = None, final: bool = False) -> None:
        super().__init__(str(answer))
        self.answer, self.wait, self.final = answer, wait, final


def fetch(
    url: str,
    target: Path,
    expected: Expected,
    report: Report | None = None,
    tries: int = 5,
    pause: float = 2.0,
    max_bytes: int = _LIMIT,
    name: str | None = None,
    elsewhere: str = "set ZSAD_HOME to another folder",
    part: Path | None = None,
) -> Path:
    """Download a file and return where it is; go on where an earlier attempt stopped.

    Until size and hashes agree the data are in ``<target>.part``, so ``target`` exists only when complete and right.

    Args:
        url: ``http`` or ``https``; at most five redirects are followed, none from ``https`` to ``http``.
        target: Name of the file to write; if it exists and is the expected one nothing is fetched.
        expected: What the file must be.
        report: Called after every piece.
        tries: Attempts after a broken connection or a server's passing trouble, each going on where the last stopped.
        pause: Seconds before a further attempt, doubled each time; a server that names a time gets it.
        max_bytes: Limit of what is read where the size is not known.
        name: What it is, for messages; by default the file's name.
        elsewhere: What to do about a full disk, for the message.
        part: Where unfinished data go; by default ``<target>.part``.

    Raises:
        MismatchError: The file is another one; it was deleted.
        NoSpaceError: The disk is too full.
        UnreachableError: The server cannot be reached.
        DownloadError: It cannot be had for another reason, which the message says.
        ValueError: The address is not http or https.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"Only http and https addresses are fetched, got '{url}'.")
    if target.exists() and expected and expected.difference(measure(target)) is None:
        return target
    part = part or target.with_name(f"{target.name}.part")
    job = _Job(url, part, expected, report, max_bytes, name or urlsplit(url).path.rpartition("/")[2], elsewhere)
    job.make_folder()
    for attempt in range(1, tries + 1):
        try:
            job.fetch_rest(attempt)
            break
        except _TryAgainError as trouble:
            if attempt == tries or trouble.final:
                raise trouble.answer from trouble.__cause__
            wait = pause * 2 ** (attempt - 1) if trouble.wait is None else trouble.wait
            time.sleep(min(wait, _LONGEST_WAIT))
    if (differs := expected.difference(measure(part))) is not None:
        part.unlink()
        raise mismatch(url, differs)
    os.replace(part, target)
    return target


class _Job:
    """One download; the arguments are those of :func:`fetch`."""

    def __init__(
        self, url: str, part: Path, expected: Expected, report: Report | None, limit: int, name: str, elsewhere: str
    ) -> None:
        self.url, self.part, self.expected, self.report = url, part, expected, report
        self.limit = limit if expected.size is None else expected.size
        self.name, self.elsewhere = name, elsewhere
        self.hosts: list[str] = []
        self.total: int | None = None
        self._last_scheme = ""

    def make_folder(self) -> None:
        try:
            self.part.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._disk(error, None) from error

    def have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def fetch_rest(self, attempt: int) -> None:
        """Append to the unfinished file what it lacks; start over if the server cannot send a part."""
        import httpx

        have = self.have()
        if self.expected.size is not None and have > self.expected.size:
            self.part.unlink()
            have = 0
        headers = {"User-Agent": "zsad", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        self.hosts, self._last_scheme = [], ""
        client = httpx.Client(
            follow_redirects=True,
            max_redirects=_REDIRECTS,
            timeout=httpx.Timeout(60.0, connect=10.0),
            event_hooks={"request": [self._on_request]},
        )
        try:
            with client, client.stream("GET", self.url, headers=headers) as response:
                if response.status_code == 416 and have:  # nothing is left to send, or the file there is shorter now
                    total = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
                    if total is not None and int(total[1]) == have:
                        return
                    self.part.unlink()
                    raise _TryAgainError(DownloadError(f"'{self.url}' cannot be resumed."), wait=0.0)
                self._check_answer(response)
                self._receive(response, have)
        except httpx.TooManyRedirects as error:
            raise DownloadError(
                f"'{self.url}' was redirected more than {_REDIRECTS} times ({' -> '.join(self.hosts)})."
            ) from error
        except httpx.TransportError as error:
            raise self._broken(error, attempt, self.have() > have) from error

    def _on_request(self, request: Any) -> None:
        self.hosts.append(request.url.host)
        if self._last_scheme == "https" and request.url.scheme == "http":
            raise DownloadError(
                f"'{self.url}' was redirected from https to http ({' -> '.join(self.hosts)}), where anyone on the way "
                f"could change the file. It was not followed."
            )
        self._last_scheme = request.url.scheme

    def _check_answer(self, response: Any) -> None:
        status = response.status_code
        if status not in (200, 206):
            way = "" if len(set(self.hosts)) < 2 else f" ({' -> '.join(self.hosts)})"
            answer = DownloadError(f"Cannot download '{self.url}': HTTP {status} {response.reason_phrase}{way}.")
            if status in _TEMPORARY:
                after = response.headers.get("Retry-After", "")
                raise _TryAgainError(answer, wait=float(after) if after.isdigit() else None)
            raise answer
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind == "text/html":
            file = urlsplit(self.url).path.rpartition("/")[2]
            raise DownloadError(
                f"{self.hosts[-1]} sent a web page instead of '{file}' (HTTP {status}, {kind}): a login, quota or "
                f"maintenance page. Try later or use a mirror."
            )

    def _receive(self, response: Any, have: int) -> None:
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        resumed = response.status_code == 206 and start is not None and int(start[1]) == have
        length = response.headers.get("Content-Length", "")
        done = have if resumed else 0
        total = done + int(length) if length.isdigit() else None
        wanted = self.expected.size
        if None not in (total, wanted) and total != wanted:
            self.part.unlink(missing_ok=True)
            raise mismatch(self.url, f"size {total}, expected {wanted}")
        if total is not None and total > self.limit:
            raise self._too_long()
        self._check_space(wanted if wanted is not None else total, done)
        self.total = total
        try:
            with self.part.open("ab" if resumed else "wb") as file:
                for chunk in response.iter_raw():
                    done += len(chunk)
                    if done > self.limit:
                        file.close()
                        self.part.unlink()
                        raise self._too_long()
                    file.write(chunk)
                    if self.report is not None:
                        self.report(done, total)
        except DownloadError:
            raise
        except OSError as error:
            raise self._disk(error, total) from error

    def _too_long(self) -> DownloadError:
        if self.expected.size is not None:
            return mismatch(self.url, f"more than {self.limit} bytes, expected {self.limit}")
        return DownloadError(f"'{self.url}' sends more than {self.limit} bytes: nothing was kept.")

    def _check_space(self, total: int | None, done: int) -> None:
        if total is None:
            return
        needed, free = (total - done) * 11 // 10, shutil.disk_usage(self.part.parent).free
        if needed > free:
            raise NoSpaceError(
                f"'{self.name}' needs {_megabytes(needed)}, {self.part.parent} has {_megabytes(free)}. Free some space "
                f"or {self.elsewhere}."
            )

    def _disk(self, error: OSError, total: int | None) -> DownloadError:
        folder = self.part.parent
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", -1)):
            needs = "more room" if total is None else _megabytes(total)
            return NoSpaceError(f"'{self.name}' needs {needs}, {folder} is full. Free some space or {self.elsewhere}.")
        return DownloadError(
            f"Cannot write to '{folder}' ({error.strerror or error}). Choose a folder: {self.elsewhere}."
        )

    def _broken(self, error: Exception, attempt: int, received: bool) -> _TryAgainError:
        import httpx

        host = self.hosts[-1] if self.hosts else urlsplit(self.url).hostname or self.url
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, socket.gaierror):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:  # a name that is not known now will not be in some seconds
            return _TryAgainError(UnreachableError(host, "its name cannot be resolved", attempt), final=True)
        if isinstance(error, httpx.UnsupportedProtocol):
            return _TryAgainError(
                DownloadError(f"'{self.url}' leads to an address of another kind: {error}"), final=True
            )
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return _TryAgainError(UnreachableError(host, str(error) or type(error).__name__, attempt))
        of = "" if self.total is None else f" of {self.total}"
        have = self.have()
        if not have and not received:
            return _TryAgainError(UnreachableError(host, str(error) or type(error).__name__, attempt))
        return _TryAgainError(
            DownloadError(
                f"The connection ended after {have}{of} bytes; they are kept in '{self.part}', the same command goes "
                f"on from there."
            )
        )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
