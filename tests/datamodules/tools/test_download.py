import gzip
import hashlib
import io
import json
import re
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.served import Server
from zsad.cli.data import main
from zsad.datamodules import facts as facts_module
from zsad.datamodules.facts import Download, all_facts
from zsad.datamodules.tools import UnsafeArchiveError, extract
from zsad.weights import DownloadError

DATA = bytes(range(256)) * 400


def tar(path: Path, entries: dict[str, bytes | None], kind: Any = "", **member: Any) -> Path:
    mode: Any = f"w:{kind}"
    with tarfile.open(path, mode) as file:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b"")
            for key, value in member.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(content or b""))
    return path


def zipped(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


GOOD = {"top/a.png": b"a", "top/sub/./b.txt": b"bb"}


@pytest.mark.parametrize("kind", ["", "gz", "xz", "bz2", "zip"])
def test_extract(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "archive"
    folder = zipped(path, GOOD) if kind == "zip" else tar(path, {"top": None, **GOOD}, kind)
    extract(folder, tmp_path / "out")
    found = {file.relative_to(tmp_path / "out").as_posix(): file.read_bytes() for file in tmp_path.glob("out/**/*.*")}
    assert found == {"top/a.png": b"a", "top/sub/b.txt": b"bb"}
    with pytest.raises(FileExistsError, match="exists already"):
        extract(path, tmp_path / "out")


BAD_NAMES = ["/etc/evil", "../evil", "a/../../evil", "C:/evil", "a\\..\\evil", "C:evil"]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_paths_that_leave_the_folder(tmp_path: Path, name: str, kind: str) -> None:
    entries = {"fine.txt": b"x", name: b"evil"}
    path = zipped(tmp_path / "x.zip", entries) if kind == "zip" else tar(tmp_path / "x.tar", {**entries})
    with pytest.raises(UnsafeArchiveError, match="would be written outside of its folder"):
        extract(path, tmp_path / "deep" / "out")
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["deep", path.name]


@pytest.mark.parametrize("type_", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar(tmp_path: Path, type_: bytes) -> None:
    path = tar(tmp_path / "x.tar", {"link": b""}, type=type_, linkname="/etc/passwd")
    with pytest.raises(UnsafeArchiveError, match="'link', which is a link or a device"):
        extract(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_in_a_zip(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(UnsafeArchiveError, match="'link', which is a link or a device"):
        extract(tmp_path / "x.zip", tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "xz"])
def test_bombs_and_doubles(tmp_path: Path, kind: str) -> None:
    entries = {"zeros": bytes(10**7)}
    path = zipped(tmp_path / "x", entries) if kind == "zip" else tar(tmp_path / "x", {**entries}, kind)
    assert path.stat().st_size < 20_000
    with pytest.raises(UnsafeArchiveError, match="unpacks to more than 1000000 bytes, at 'zeros'"):
        extract(path, tmp_path / "out", 1e6)
    double = tar(tmp_path / "y.tar", {"a": b"1", "./a": b"2"})
    with pytest.raises(UnsafeArchiveError, match=r"holds '\./a' twice"):
        extract(double, tmp_path / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x", "y.tar"]


@pytest.mark.parametrize("harm", ["cut", "text", "empty"])
@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_damaged_archives_leave_nothing(tmp_path: Path, harm: str, kind: str) -> None:
    entries = {f"{i}.bin": DATA[i:] for i in range(9)}
    path = zipped(tmp_path / "x", entries) if kind == "zip" else tar(tmp_path / "x", {**entries}, kind)
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "text": b"<html>", "empty": b""}[harm])
    with pytest.raises(DownloadError, match="is damaged, or neither a tar nor a zip archive"):
        extract(path, tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["x"]


def test_a_partial_folder_of_an_earlier_attempt_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "stale.png").touch()
    extract(tar(tmp_path / "x.tar", {**GOOD}), tmp_path / "out")
    assert not list(tmp_path.rglob("stale.png"))


def command(name: str, root: Path, *options: str) -> int:
    return main(["download", name, "--root", str(root), *options])


def test_the_command(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tar(tmp_path / "visa.tar", {"VisA/split_csv/1cls.csv": b"object,split,label,image,mask\n"})
    server.files["/visa.tar"] = archive.read_bytes()
    link = Download(server.url("/visa.tar"), hashlib.sha256(archive.read_bytes()).hexdigest(), 1.0)
    changed = dict(all_facts())
    object.__setattr__(changed["visa"], "download", link)
    try:
        assert command("visa", tmp_path / "sets", "--json") == 0
        assert json.loads(capsys.readouterr().out)["status"] == "done"
        assert (tmp_path / "sets/visa/VisA/split_csv/1cls.csv").is_file()
        assert [one.name for one in (tmp_path / "sets").iterdir()] == ["visa"]  # the archive is deleted
        assert command("visa", tmp_path / "sets") == 0
        assert len(server.asked) == 1
        assert command("visa", tmp_path / "other", f"--archive={archive}", "--json") == 0
        archive.write_bytes(b"other")
        capsys.readouterr()
        with pytest.raises(DownloadError, match="expected"):
            command("visa", tmp_path / "third", f"--archive={archive}", "--json")
        assert capsys.readouterr().out == ""
    finally:
        facts_module.all_facts.cache_clear()


def test_instructions_where_there_is_no_direct_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("mvtec_ad", tmp_path) == 1
    out = capsys.readouterr().out
    for words in ("asks for name and e-mail", "CC BY-NC-SA", "cf4313b1", "https://www.mvtec.com"):
        assert words in out
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="Unknown data set 'mvtek'"):
        command("mvtek", tmp_path)
    with pytest.raises(FileNotFoundError, match="No archive"):
        command("visa", tmp_path, f"--archive={tmp_path / 'gone.tar'}")


def test_links_of_the_facts_are_official_and_have_checksums() -> None:
    for facts in all_facts().values():
        if facts.download is not None:
            assert re.fullmatch(r"https?://\S+\.(tar|zip|tar\.xz)", facts.download.url)
            assert re.fullmatch(r"[0-9a-f]{64}", facts.download.sha256)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_flipped_bytes_of_a_compressed_archive_are_noticed(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    content = random.integers(0, 256, 30_000, dtype=np.uint8).tobytes()  # does not compress: every byte counts
    path = tar(tmp_path / "a", {"x/a.png": content, "x/b.png": content[::-1]}, kind)
    whole = bytearray(path.read_bytes())
    for place in random.integers(100, len(whole) - 100, 60):
        bad = bytearray(whole)
        bad[place] ^= 1 << int(random.integers(8))
        path.write_bytes(bad)
        with pytest.raises((DownloadError, UnsafeArchiveError)):
            extract(path, tmp_path / "out")
        assert sorted(one.name for one in tmp_path.iterdir()) == ["a"]
    path.write_bytes(whole)
    extract(path, tmp_path / "out")
    assert (tmp_path / "out" / "x" / "a.png").read_bytes() == content


@pytest.mark.parametrize("kind", ["", "gz"])
def test_an_archive_cut_between_two_entries_is_noticed(tmp_path: Path, kind: str) -> None:
    plain = tar(tmp_path / "plain", {"a.png": b"a" * 512, "b.png": b"b" * 512}).read_bytes()
    cut = plain[:1024]  # header and content of the first entry
    (tmp_path / "a").write_bytes(gzip.compress(cut) if kind else cut)
    with pytest.raises(DownloadError, match="cut off: it has no end mark"):
        extract(tmp_path / "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.partial"))
