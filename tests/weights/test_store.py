"""The cache of adapters: what lies under a final name is right, whatever happens on the way."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.served import COMMIT, Published, Server, git_blob
from zsad.weights import ChangedWeightsWarning, DownloadError, MismatchError, NotHereError, NotPublishedError, store
from zsad.weights.registry import WeightsEntry, find
from zsad.weights.sources import Asked
from zsad.weights.store import add, cached, intact, is_here, obtain, read_note, refuse_another, remove

NAME = "anomalyclip/visa"
CONTENT = random.Random(0).randbytes(200_000)
CHILD = """
import sys, time
from pathlib import Path
from zsad.weights import registry, store
registry.TABLE = Path(sys.argv[1])
def convert(entry, files):
    if "slow" in sys.argv:
        print("converting", flush=True)
        time.sleep(60)
    return files[0].read_bytes()[::-1]
print(store.obtain(registry.find("anomalyclip/visa"), convert), flush=True)
"""


def reverse(entry: WeightsEntry, files: Sequence[Path]) -> bytes:
    """A conversion that needs no method: the store does not know what it stores."""
    return b"".join(path.read_bytes()[::-1] for path in files)


def child(published: Published, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(published.path), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def files(home: Path, hidden: tuple[str, ...] = (".lock",)) -> list[str]:
    return sorted(path.name for path in home.rglob("*") if path.is_file() and not path.name.endswith(hidden))


@pytest.mark.parametrize("known", [("git_blob",), ("sha256",), ("git_blob", "sha256", "size")])
def test_obtain(known: tuple[str, ...], published: Published, home: Path) -> None:
    published.publish(NAME, CONTENT, **dict.fromkeys({"git_blob", "sha256", "size"} - set(known)))
    entry = find(NAME)
    assert not is_here(entry)
    path = obtain(entry, reverse)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert path == home / "weights" / "anomalyclip" / f"visa-{sha256[:12]}.safetensors"
    assert path.read_bytes() == CONTENT[::-1]
    assert files(home) == [f"visa-{sha256[:12]}.json", path.name]
    note = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert note.pop("time").endswith("Z")
    assert note.pop("zsad")
    assert note == {
        "format": 1,
        "name": NAME,
        "method": "AnomalyCLIP",
        "backbone": "zsad-mini",
        "files": [
            {
                "address": published.server.url(f"/owner/repository/{COMMIT}/{NAME}.pth"),
                "commit": COMMIT,
                "sha256": sha256,
                "git_blob": git_blob(CONTENT),
                "size": len(CONTENT),
            }
        ],
        "sha256": hashlib.sha256(CONTENT[::-1]).hexdigest(),
        "licence": {"code": "MIT", "weights": "not stated", "data": "CC BY 4.0"},
        "commercial": "yes",
        "trained_on": [
            {
                "name": "visa",
                "adapters": NAME,
                "split": "test",
                "epochs": 15,
                "licence": "CC BY 4.0",
                "commercial": "yes",
            }
        ],
    }
    assert is_here(entry)
    assert intact(entry)
    assert read_note(entry)["name"] == NAME


def test_the_authors_file_stays_if_asked(published: Published, home: Path) -> None:
    published.publish(NAME, CONTENT)
    path = obtain(find(NAME), reverse, Asked(keep=True))
    assert path.with_suffix(".pth").read_bytes() == CONTENT
    assert remove(find(NAME))
    assert files(home, ()) == []


@pytest.mark.parametrize("kept", ["git_blob", "sha256", "size"])
def test_another_file_leaves_nothing(kept: str, published: Published, home: Path) -> None:
    place = published.publish(NAME, CONTENT, **dict.fromkeys({"git_blob", "sha256", "size"} - {kept, "git_blob"}))
    published.server.files[place] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(MismatchError, match=r"is not the file that is expected: git blob id \w{40}, expected \w{40}\."):
        obtain(find(NAME), reverse)
    published.server.files[place] = CONTENT[:134]
    with pytest.raises(MismatchError, match=r"is not the file that is expected: (size|git blob id)"):
        obtain(find(NAME), reverse)
    assert files(home) == []


def test_a_file_that_does_not_convert_leaves_nothing_under_the_final_name(published: Published, home: Path) -> None:
    published.publish(NAME, CONTENT)

    def refuse(entry: WeightsEntry, files: Sequence[Path]) -> bytes:
        raise ValueError("not what it should be")

    with pytest.raises(ValueError, match="not what it should be"):
        obtain(find(NAME), refuse)
    assert not [name for name in files(home) if "safetensors" in name]
    assert cached(find(NAME)) is None


# ---- without a network


def test_offline_is_one_clear_sentence(published: Published, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published.publish(NAME, CONTENT)
    entry = find(NAME)
    sentence = (
        f"Adapters 'anomalyclip/visa' are not on this machine ({home}/weights/anomalyclip) and offline mode is on "
        f"({{}}). Connect once, or fetch {entry.files[0].url} elsewhere and run 'zsad weights add "
        f"anomalyclip/visa FILE'."
    )
    with pytest.raises(NotHereError) as caught:
        obtain(entry, reverse, Asked(offline=True))
    assert str(caught.value) == sentence.format("offline=True")
    for name in ("ZSAD_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
        with pytest.raises(NotHereError) as caught:
            obtain(entry, reverse)
        assert str(caught.value) == sentence.format(name)
    assert published.server.asked == []
    assert obtain(entry, reverse, Asked(offline=False)).is_file()


def test_no_network_names_the_host_and_the_ways_out(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    published.publish(NAME, CONTENT)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    published.server.server_close()
    with pytest.raises(
        NotHereError,
        match=r"are not on this machine \(.*\) and 127\.0\.0\.1 cannot be reached \(.+\)\. Connect once, or fetch http",
    ):
        obtain(find(NAME), reverse)


def test_what_is_here_opens_no_connection(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    published.publish(NAME, CONTENT)
    path = obtain(find(NAME), reverse)

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "create_connection", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    assert obtain(find(NAME), reverse) == path
    assert obtain(find(NAME), reverse, Asked(offline=True)) == path
    remove(find(NAME))
    with pytest.raises(NotHereError):
        obtain(find(NAME), reverse, Asked(offline=True))


def test_only_a_person_can_fetch_from_a_drive(published: Published, tmp_path: Path) -> None:
    source = {"kind": "drive", "drive_id": "abc", "file": "train_visa.pth"}
    published.publish(
        "bayes_pfl/visa", b"", status="manual", source=source, git_blob=None, sha256=None, size=None, method="BayesPFL"
    )
    with pytest.raises(NotHereError) as caught:
        obtain(find("bayes_pfl/visa"), reverse)
    assert str(caught.value) == (
        "'bayes_pfl/visa' is published on a drive that programs cannot read. Open "
        "https://drive.google.com/file/d/abc/view, save train_visa.pth, then run 'zsad weights add "
        "bayes_pfl/visa FILE'."
    )
    (tmp_path / "train_visa.pth").write_bytes(CONTENT)
    assert add(find("bayes_pfl/visa"), [tmp_path / "train_visa.pth"], reverse).read_bytes() == CONTENT[::-1]
    assert published.server.asked == []


# ---- what lies in the cache


def test_a_changed_file_is_moved_away_and_fetched_again(published: Published) -> None:
    published.publish(NAME, CONTENT)
    path = obtain(find(NAME), reverse)
    path.write_bytes(b"damaged")
    assert not intact(find(NAME))
    with pytest.warns(ChangedWeightsWarning) as warned:
        assert obtain(find(NAME), reverse) == path
    assert str(warned[0].message) == (
        f"'{path}' has changed since it was downloaded. It was moved to '{path}.bad' and is downloaded again."
    )
    assert path.read_bytes() == CONTENT[::-1]
    assert Path(f"{path}.bad").read_bytes() == b"damaged"
    assert intact(find(NAME))


@pytest.mark.parametrize("harm", ["no note", "empty note", "half a note", "other note"])
def test_a_file_without_a_right_note_is_not_trusted(harm: str, published: Published) -> None:
    published.publish(NAME, CONTENT)
    path = obtain(find(NAME), reverse)
    note = path.with_suffix(".json")
    text = note.read_text(encoding="utf-8")
    path.write_bytes(b"anything")
    if harm == "no note":
        note.unlink()
    else:
        other = text.replace(git_blob(CONTENT), "0" * 40)
        note.write_text({"empty note": "", "half a note": text[:99], "other note": other}[harm], encoding="utf-8")
    assert cached(find(NAME)) is None
    assert obtain(find(NAME), reverse).read_bytes() == CONTENT[::-1]


def test_a_table_with_another_file_fetches_it(published: Published) -> None:
    published.publish(NAME, CONTENT)
    old = obtain(find(NAME), reverse)
    published.publish(NAME, CONTENT[1:])
    new = obtain(find(NAME), reverse)
    assert new != old
    assert new.read_bytes() == CONTENT[1:][::-1]


def test_a_cache_that_cannot_be_written_is_one_error(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.publish(NAME, CONTENT)
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZSAD_HOME", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match=r"Cannot write to '.*' \(.*\)\. Set ZSAD_HOME to another folder"):
        obtain(find(NAME), reverse)
    assert published.server.asked == []


def test_names_of_variants_and_of_several_sets_are_files_of_their_own(published: Published, home: Path) -> None:
    for number, name in enumerate(("anomalyclip/visa/240px", "anomalyclip/mvtec_ad+cvc_colondb", NAME)):
        published.publish(name, CONTENT[number:])
        obtain(find(name), reverse)
    assert {one.partition("-")[0] for one in files(home)} == {"visa", "mvtec_ad+cvc_colondb"}
    for number, name in enumerate(("anomalyclip/visa/240px", "anomalyclip/mvtec_ad+cvc_colondb", NAME)):
        path = cached(find(name))
        assert path is not None
        assert path.read_bytes() == CONTENT[number:][::-1]
    remove(find(NAME))
    assert is_here(find("anomalyclip/visa/240px"))


def test_adapters_of_several_files(published: Published, tmp_path: Path) -> None:
    parts = [CONTENT[:1000], CONTENT[1000:5000]]
    source = {"kind": "github_raw", "repository": "o/r", "commit": COMMIT, "path": ["a.pt", "b.pt"]}
    published.publish("afclip/visa", b"", source=source, git_blob=[*map(git_blob, parts)], sha256=None, size=None)
    for name, part in zip(("a.pt", "b.pt"), parts, strict=True):
        published.server.files[f"/o/r/{COMMIT}/{name}"] = part
        (tmp_path / name).write_bytes(part)
    path = obtain(find("afclip/visa"), reverse)
    assert path.read_bytes() == parts[0][::-1] + parts[1][::-1]
    remove(find("afclip/visa"))
    with pytest.raises(ValueError, match=r"'afclip/visa' consists of 2 file\(s\) \(a\.pt, b\.pt\), got 1"):
        add(find("afclip/visa"), [tmp_path / "a.pt"], reverse)
    assert add(find("afclip/visa"), [tmp_path / "a.pt", tmp_path / "b.pt"], reverse).read_bytes() == path.read_bytes()


# ---- killed, and many at once


@pytest.mark.parametrize("seed", range(10))
def test_killed_at_any_moment_nothing_wrong_lies_under_the_final_name(
    seed: int, published: Published, home: Path
) -> None:
    place = published.publish(NAME, CONTENT)
    published.server.piece_pause = 0.004  # 49 pieces: 0.2 seconds
    process = child(published)
    while not published.server.asked and process.poll() is None:
        time.sleep(0.005)
    time.sleep(random.Random(seed).uniform(0, 0.3))
    process.kill()
    process.communicate()
    for path in home.rglob("*.safetensors"):
        assert path.read_bytes() == CONTENT[::-1]
    published.server.piece_pause = 0.0
    assert obtain(find(NAME), reverse).read_bytes() == CONTENT[::-1]
    assert not [name for name in files(home) if ".source" in name]
    assert published.server.files[place] == CONTENT


def test_killed_while_converting_the_next_run_need_not_fetch_again(published: Published, home: Path) -> None:
    published.publish(NAME, CONTENT)
    process = child(published, "slow")
    assert process.stdout is not None
    assert process.stdout.readline() == "converting\n"
    os.kill(process.pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.communicate()
    assert files(home) == ["visa.source0"]
    assert obtain(find(NAME), reverse).read_bytes() == CONTENT[::-1]
    assert len(published.server.asked) == 1


def test_four_processes_fetch_once(published: Published) -> None:
    published.publish(NAME, CONTENT)
    published.server.piece_pause = 0.002
    processes = [child(published) for _ in range(4)]
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, answers
    assert len({out for out, _ in answers}) == 1
    assert len(published.server.asked) == 1


def test_without_locks_every_process_has_files_of_its_own(
    published: Published, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoLocks:
        def __init__(self, path: Path) -> None: ...

        def acquire(self) -> None:
            raise NotImplementedError("this file system has no locks")

    monkeypatch.setattr(store, "FileLock", NoLocks)
    published.publish(NAME, CONTENT)
    seen: list[str] = []

    def note(entry: WeightsEntry, sources: Sequence[Path]) -> bytes:
        seen.append(sources[0].name)
        return reverse(entry, sources)

    obtain(find(NAME), note)
    remove(find(NAME))
    obtain(find(NAME), note)
    assert len(set(seen)) == 2
    assert all(name.startswith("visa.source0-") for name in seen)
    assert len(files(home)) == 2


# ---- files by hand


def test_add_compares_before_it_keeps(published: Published, tmp_path: Path, home: Path) -> None:
    published.publish(NAME, CONTENT)
    mine = tmp_path / "mine.pth"
    with pytest.raises(FileNotFoundError, match="No file '"):
        add(find(NAME), [mine], reverse)
    mine.write_bytes(CONTENT[1:])
    with pytest.raises(
        MismatchError, match=r"mine\.pth' is not the file that is published as 'anomalyclip/visa': size"
    ):
        add(find(NAME), [mine], reverse)
    assert files(home) == []
    mine.write_bytes(CONTENT)
    assert add(find(NAME), [mine], reverse).read_bytes() == CONTENT[::-1]
    assert mine.is_file()
    assert obtain(find(NAME), reverse, Asked(offline=True)).is_file()
    assert published.server.asked == []


def test_whose_file_it_is_says_its_hash(published: Published, tmp_path: Path) -> None:
    published.publish(NAME, CONTENT)
    published.publish("crane/visa", CONTENT[1:], method="Crane", status="other")
    published.publish("vand/visa", CONTENT[2:], method="VAND", layout="vand")
    mine = tmp_path / "epoch_15.pth"
    mine.write_bytes(CONTENT)
    assert refuse_another(mine, "AnomalyCLIP") == find(NAME)
    mine.write_bytes(CONTENT[1:])
    with pytest.raises(MismatchError) as caught:
        refuse_another(mine, "AnomalyCLIP")
    assert str(caught.value) == (
        f"'{mine}' is Crane's published 'crane/visa.pth' (by its hash), not AnomalyCLIP's: it has the same layout, but "
        f"belongs to another method."
    )
    with pytest.raises(MismatchError, match="Crane's published"):
        add(find(NAME), [mine], reverse)
    mine.write_bytes(CONTENT[2:])
    with pytest.raises(MismatchError, match=r"is VAND's .* not AnomalyCLIP's: it belongs to another method\.$"):
        refuse_another(mine, "AnomalyCLIP")
    mine.write_bytes(b"my own")
    assert refuse_another(mine, "AnomalyCLIP") is None


def test_nothing_published(published: Published) -> None:
    published.rows["aaclip"] = {"status": "none", "method": "AACLIP", "note": "users asked"}
    published.write()
    with pytest.raises(NotPublishedError, match=r"No adapters of AACLIP are published: users asked\."):
        find("aaclip")


# ---- mirrors


@pytest.mark.parametrize("form", ["method/name", "own path"])
@pytest.mark.parametrize("kind", ["address", "folder"])
def test_a_mirror_is_asked_first(
    kind: str, form: str, published: Published, other_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.publish(
        NAME, CONTENT, source={"kind": "github_raw", "repository": "o/r", "commit": COMMIT, "path": "d/e.pth"}
    )
    name = f"{NAME}.pth" if form == "method/name" else "d/e.pth"
    if kind == "address":
        other_server.files[f"/base/{name}"] = CONTENT
        monkeypatch.setenv("ZSAD_WEIGHTS_MIRROR", other_server.url("/base/"))
    else:
        (tmp_path / "mirror" / name).parent.mkdir(parents=True)
        (tmp_path / "mirror" / name).write_bytes(CONTENT)
        monkeypatch.setenv("ZSAD_WEIGHTS_MIRROR", str(tmp_path / "mirror"))
        monkeypatch.setenv("ZSAD_OFFLINE", "1")  # a folder needs no network
    assert obtain(find(NAME), reverse).read_bytes() == CONTENT[::-1]
    assert published.server.asked == []


@pytest.mark.parametrize("kind", ["address", "folder"])
def test_a_mirror_cannot_put_in_another_file(
    kind: str, published: Published, other_server: Server, tmp_path: Path, home: Path
) -> None:
    published.publish(NAME, CONTENT)
    wrong = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    other_server.files[f"/{NAME}.pth"] = wrong
    (tmp_path / "anomalyclip").mkdir()
    (tmp_path / "anomalyclip" / "visa.pth").write_bytes(wrong)
    with pytest.raises(MismatchError, match="is not the file that is expected: git blob id"):
        obtain(find(NAME), reverse, Asked(mirror=other_server.url("") if kind == "address" else str(tmp_path)))
    assert files(home) == []


def test_a_mirror_that_is_dead_or_empty_is_passed_over(
    published: Published, other_server: Server, tmp_path: Path
) -> None:
    published.publish(NAME, CONTENT)
    for base in ("http://127.0.0.1:1/x", other_server.url(""), str(tmp_path / "gone")):
        assert obtain(find(NAME), reverse, Asked(mirror=base)).read_bytes() == CONTENT[::-1]
        remove(find(NAME))
    assert len(published.server.asked) == 3


def test_a_password_in_an_address_is_not_noted(published: Published, other_server: Server) -> None:
    published.publish(NAME, CONTENT)
    other_server.files[f"/{NAME}.pth"] = CONTENT
    obtain(find(NAME), reverse, Asked(mirror=other_server.url("").replace("http://", "http://me:secret@")))
    assert "secret" not in json.dumps(read_note(find(NAME)))
