"""One file over HTTP, from a server that misbehaves in every way that we could think of."""

from __future__ import annotations

import hashlib
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from tests.served import Server, git_blob
from zsad.weights import DownloadError, Expected, MismatchError, NoSpaceError, UnreachableError, fetch
from zsad.weights.expected import measure

DATA = bytes(range(256)) * 400
RIGHT = Expected(sha256=hashlib.sha256(DATA).hexdigest())


@pytest.fixture(autouse=True)
def file(server: Server) -> None:
    server.files["/data.bin"] = DATA


def get(server: Server, folder: Path, expected: Expected = RIGHT, **options: Any) -> Path:
    return fetch(server.url("/data.bin"), folder / "data.bin", expected, pause=0, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", [b"", b"x", DATA], ids=["empty", "one", "many"])
def test_hashes_are_those_of_git_and_of_hashlib(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert measure(tmp_path / "file") == (hashlib.sha256(content).hexdigest(), git_blob(content), len(content))


@pytest.mark.parametrize("bad", [{"sha256": "ab"}, {"git_blob": "g" * 40}])
def test_a_hash_that_is_none_is_refused(bad: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"must be (64|40) hexadecimal digits, got"):
        Expected(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "expected",
    [
        RIGHT,
        Expected(git_blob=git_blob(DATA)),
        Expected(git_blob=git_blob(DATA), size=len(DATA)),
        Expected(RIGHT.sha256, git_blob(DATA), len(DATA)),
    ],
)
def test_fetch(expected: Expected, server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    path = get(server, tmp_path / "new", expected, report=lambda done, total: told.append((done, total)))
    assert path.read_bytes() == DATA
    assert told[-1] == (len(DATA), len(DATA))
    assert names(path.parent) == ["data.bin"]
    get(server, tmp_path / "new", expected)
    assert len(server.asked) == 1  # it is there already


def test_what_is_there_but_wrong_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"old")
    assert get(server, tmp_path).read_bytes() == DATA


def test_a_broken_connection_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1000, 5000]
    assert get(server, tmp_path).read_bytes() == DATA
    assert [asked for _, asked in server.asked] == [None, "bytes=1000-", "bytes=6000-"]


def test_an_interrupted_download_is_kept_and_resumed_later(server: Server, tmp_path: Path) -> None:
    server.cut_after = [len(DATA) // 2]
    part = tmp_path / "data.bin.part"
    with pytest.raises(DownloadError) as caught:
        get(server, tmp_path, tries=1)
    assert str(caught.value) == (
        f"The connection ended after 51200 of 102400 bytes; they are kept in '{part}', the same command goes on "
        "from there."
    )
    assert names(tmp_path) == ["data.bin.part"]
    assert get(server, tmp_path).read_bytes() == DATA
    assert server.asked[-1][1] == "bytes=51200-"


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.resumable = False
    server.cut_after = [len(DATA) // 2]
    assert get(server, tmp_path).read_bytes() == DATA
    assert [asked for _, asked in server.asked] == [None, "bytes=51200-"]


def test_a_file_that_changed_in_between_is_noticed_and_the_next_attempt_is_clean(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "data.bin.part").write_bytes(b"\0" * 1000)
    with pytest.raises(
        MismatchError, match=r"is not the file that is expected: sha256 \w{64}, expected \w{64}\. Nothing"
    ):
        get(server, tmp_path)
    assert names(tmp_path) == []
    assert get(server, tmp_path).read_bytes() == DATA


def test_a_part_that_is_complete_or_too_long(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "data.bin.part"
    part.write_bytes(DATA)
    assert get(server, tmp_path).read_bytes() == DATA
    for expected in (RIGHT, Expected(RIGHT.sha256, size=len(DATA))):
        (tmp_path / "data.bin").unlink()
        part.write_bytes(DATA * 2)
        assert get(server, tmp_path, expected).read_bytes() == DATA


def test_another_content_of_the_right_size_leaves_nothing(server: Server, tmp_path: Path) -> None:
    flipped = bytes([DATA[0] ^ 1]) + DATA[1:]
    server.files["/data.bin"] = flipped
    url = server.url("/data.bin")
    with pytest.raises(MismatchError) as caught:
        get(server, tmp_path, Expected(git_blob=git_blob(DATA)))
    assert str(caught.value) == (
        f"'{url}' is not the file that is expected: git blob id {git_blob(flipped)}, expected {git_blob(DATA)}. "
        f"Nothing was kept. If the authors replaced the file, zsad needs an update."
    )
    with pytest.raises(MismatchError, match="expected: sha256"):
        get(server, tmp_path)
    assert names(tmp_path) == []


def test_a_pointer_in_place_of_the_content_is_refused_by_its_size(server: Server, tmp_path: Path) -> None:
    server.files["/data.bin"] = b"version https://git-lfs.github.com/spec/v1\n".ljust(134, b"x")
    with pytest.raises(MismatchError, match=r"expected: size 134, expected 102400\."):
        get(server, tmp_path, Expected(RIGHT.sha256, size=len(DATA)))
    with pytest.raises(MismatchError, match="expected: sha256"):
        get(server, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("with_length", [True, False])
def test_no_more_than_the_limit_is_read(with_length: bool, server: Server, tmp_path: Path) -> None:
    server.with_length = with_length
    with pytest.raises(DownloadError, match="sends more than 5000 bytes: nothing was kept"):
        get(server, tmp_path, max_bytes=5000)
    with pytest.raises(MismatchError, match="expected 5000"):
        get(server, tmp_path, Expected(RIGHT.sha256, size=5000))
    assert names(tmp_path) == []


@pytest.mark.parametrize("length", [1, 5, 6])
def test_redirects(length: int, server: Server, other_server: Server, tmp_path: Path) -> None:
    other_server.files["/data.bin"] = DATA
    for step in range(length - 1):
        server.redirects[f"/{step}"] = f"/{step + 1}"
    server.redirects[f"/{length - 1}"] = other_server.url("/data.bin")  # another host
    if length <= 5:
        assert fetch(server.url("/0"), tmp_path / "data.bin", RIGHT).read_bytes() == DATA
        return
    with pytest.raises(DownloadError, match=r"redirected more than 5 times \(127\.0\.0\.1 -> "):
        fetch(server.url("/0"), tmp_path / "data.bin", RIGHT)


def test_a_redirect_from_https_to_http_is_not_followed(secure_server: Server, server: Server, tmp_path: Path) -> None:
    secure_server.files["/data.bin"] = DATA
    secure_server.redirects = {"/safe": secure_server.url("/data.bin"), "/unsafe": server.url("/data.bin")}
    server.redirects["/up"] = secure_server.url("/data.bin")
    assert fetch(secure_server.url("/safe"), tmp_path / "data.bin", RIGHT).read_bytes() == DATA
    assert fetch(server.url("/up"), tmp_path / "up.bin", RIGHT).read_bytes() == DATA
    with pytest.raises(DownloadError, match=r"from https to http \(127\.0\.0\.1 -> 127\.0\.0\.1\)"):
        fetch(secure_server.url("/unsafe"), tmp_path / "other.bin", RIGHT)
    assert [path for path, _ in server.asked] == ["/up"]


def test_a_redirect_to_a_file_of_this_machine_is_not_followed(server: Server, tmp_path: Path) -> None:
    server.redirects["/x"] = "file:///etc/hostname"
    with pytest.raises(DownloadError, match="leads to an address of another kind"):
        fetch(server.url("/x"), tmp_path / "data.bin", RIGHT)


def test_a_web_page_is_named_as_such(server: Server, tmp_path: Path) -> None:
    server.files["/data.bin"] = b"<html>quota</html>"
    server.headers["Content-Type"] = "text/html; charset=utf-8"
    with pytest.raises(DownloadError) as caught:
        get(server, tmp_path)
    assert str(caught.value) == (
        "127.0.0.1 sent a web page instead of 'data.bin' (HTTP 200, text/html): a login, quota or maintenance page. "
        "Try later or use a mirror."
    )
    assert len(server.asked) == 1
    assert names(tmp_path) == []


def test_trouble_that_passes_is_waited_for(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    server.first_answers = [(429, {"Retry-After": "7"}, b""), (500, {}, b""), (500, {}, b"")]
    url = server.url("/data.bin")
    assert fetch(url, tmp_path / "data.bin", RIGHT, pause=1.0).read_bytes() == DATA
    assert slept == [7.0, 2.0, 4.0]
    server.first_answers = [(503, {}, b"")] * 2
    with pytest.raises(DownloadError, match=r"data\.bin': HTTP 503"):
        fetch(url, tmp_path / "other.bin", RIGHT, tries=2)


def test_what_will_not_pass_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"gone\.bin': HTTP 404"):
        fetch(server.url("/gone.bin"), tmp_path / "x", RIGHT)
    assert len(server.asked) == 1
    with pytest.raises(UnreachableError, match=r"^127\.0\.0\.1 cannot be reached \(.*\), after 2 attempts") as caught:
        fetch("http://127.0.0.1:1/x", tmp_path / "x", RIGHT, tries=2, pause=0)
    assert caught.value.host == "127.0.0.1"
    with pytest.raises(UnreachableError, match=r"^no-such-host\.invalid cannot .*after 1 attempts"):
        fetch("http://no-such-host.invalid/x", tmp_path / "x", RIGHT)
    with pytest.raises(ValueError, match="Only http and https addresses are fetched, got 'file:"):
        fetch("file:///etc/hostname", tmp_path / "x", RIGHT)


def test_a_full_disk_is_said_before_the_first_byte(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9, 12_000_000))
    wanted = Expected(size=126_119_090)
    server.files["/data.bin"] = b""
    server.with_length = False
    with pytest.raises(NoSpaceError) as caught:
        get(server, tmp_path, wanted, name="visualad/visa")
    assert str(caught.value) == (
        f"'visualad/visa' needs 139 MB, {tmp_path} has 12 MB. Free some space or set ZSAD_HOME to another folder."
    )
    assert len(server.asked) == 1
    assert names(tmp_path) == []


if Path("/dev/full").exists():  # a device of Linux

    def test_a_disk_that_fills_up_while_writing_is_an_answer(server: Server, tmp_path: Path) -> None:
        (tmp_path / "data.bin.part").symlink_to("/dev/full")
        with pytest.raises(NoSpaceError, match=r"'data\.bin' needs 102 kB, .* is full\. Free some space or set ZSAD"):
            get(server, tmp_path)
        assert len(server.asked) == 1


def test_a_folder_that_cannot_be_written_is_an_answer(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"Cannot write to '.*file/sub' .*set ZSAD_HOME to another folder"):
        get(server, tmp_path / "file" / "sub")
    assert server.asked == []


def test_proxies_of_the_environment_are_used(
    server: Server, other_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_server.files["http://far.invalid/data.bin"] = DATA  # a proxy is asked for the whole address
    monkeypatch.setenv("http_proxy", other_server.url(""))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert fetch("http://far.invalid/data.bin", tmp_path / "data.bin", RIGHT).read_bytes() == DATA
