"""Which files of a watched folder are handed out, and when."""

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from zsad.images import Found
from zsad.inference import arrivals
from zsad.inference.arrivals import Arrivals
from zsad.inference.files import FileFacts, FileList
from zsad.inference.watched import WatchedFolders, require_watchfiles

LOOKS = 4000  # of 5 ms at least: reached only when something hangs


class Play:
    """Arrivals in a folder, looked at until something comes."""

    def __init__(
        self, folder: Path, settle: float = 0.02, polling: bool = True, avoid: str = "", **more: object
    ) -> None:
        self.said: list[str] = []
        self.stop = threading.Event()
        folders = WatchedFolders([str(folder)], [avoid] if avoid else [], polling, 0.0, self.said.append)
        self.arrivals = Arrivals(folders, settle, **more)  # type: ignore[arg-type]
        self._looks = self.arrivals.ready(self.stop)

    def looks(self, number: int = LOOKS) -> Iterator[list[Found]]:
        for _ in range(number):
            images = next(self._looks, None)
            if images is None:
                return
            yield list(images)

    def names(self, number: int) -> list[str]:
        """Return the names of so many images, in order."""
        names: list[str] = []
        for images in self.looks():
            names += [os.path.basename(image.path) for image in images]
            if len(names) >= number:
                break
        return sorted(names)

    def one(self) -> Found:
        return next(image for images in self.looks() for image in images)


@pytest.mark.parametrize("polling", [False, True])
def test_each_file_once_whether_it_was_there_came_or_was_moved_in(tmp_path: Path, polling: bool) -> None:
    folder, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    (folder / "deep").mkdir(parents=True)
    (elsewhere / "whole").mkdir(parents=True)
    for name in (
        "in/a.png",
        "in/deep/b.png",
        "in/.hidden.png",
        "in/notes.txt",
        "elsewhere/c.png",
        "elsewhere/whole/d.png",
    ):
        (tmp_path / name).write_bytes(b"x")
    os.utime(folder / "a.png", (1e9, 1e9))
    play = Play(folder, polling=polling)
    assert play.names(2) == ["a.png", "b.png"]
    (folder / "e.png").write_bytes(b"x")
    (elsewhere / "c.png").rename(folder / "c.png")
    shutil.move(elsewhere / "whole", folder / "deep")
    assert play.names(3) == ["c.png", "d.png", "e.png"]
    (folder / "a.png").write_bytes(b"other")
    (folder / "deep" / "b.png").rename(folder / "f.png")
    assert play.names(1) == ["f.png"]
    assert not any(play.looks(20))
    play.stop.set()
    assert not any(play.looks())  # it ends


def test_a_file_that_changes_is_not_handed_out(tmp_path: Path) -> None:
    play = Play(tmp_path, settle=0.2)
    file = tmp_path / "a.png"
    for size in range(1, 12):  # the last look at it was always at another size
        file.write_bytes(b"x" * size)
        os.utime(file, (2e9 + size, 2e9 + size))
        assert not any(play.looks(1))
    assert play.one().path == str(file)


def test_what_failed_comes_again_when_it_has_changed_and_once_more_if_it_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "LAST_TRY", 3600.0)
    file = tmp_path / "a.png"
    file.write_bytes(b"half")
    play = Play(tmp_path)
    image, half = play.one(), FileFacts.of(file)
    assert play.arrivals.again(image, half)
    assert not any(play.looks(20))  # an hour from now
    file.write_bytes(b"whole")
    assert play.one() == image  # found by a look at the folder
    assert play.arrivals.again(image, half)  # it was written to while it was read
    assert play.one() == image
    monkeypatch.setattr(arrivals, "LAST_TRY", 0.0)
    assert play.arrivals.again(image, FileFacts.of(file))
    assert play.one() == image
    assert not play.arrivals.again(image, FileFacts.of(file))
    assert not any(play.looks(20))
    file.unlink()
    assert play.arrivals.again(image, None)  # gone: no row
    file.write_bytes(b"back again")
    assert play.one() == image


@pytest.mark.parametrize("polling", [False, True])
def test_a_folder_that_goes_away_is_waited_for(tmp_path: Path, polling: bool) -> None:
    folder, away = tmp_path / "share", tmp_path / "away"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"x")
    play = Play(folder, polling=polling)
    assert play.names(1) == ["a.png"]
    folder.rename(away)
    assert any(play.said or None for _ in play.looks())
    assert play.said == [f"'{folder}' is away: waiting until it is back."]
    (away / "b.png").write_bytes(b"x")
    away.rename(folder)
    assert play.names(1) == ["b.png"]
    assert play.said[1:] == [f"'{folder}' is back."]
    (folder / "c.png").write_bytes(b"x")
    assert play.names(1) == ["c.png"]


def test_own_results_known_rows_exclusions_and_pages(tmp_path: Path) -> None:
    from PIL import Image

    out = tmp_path / "out"
    out.mkdir()
    pages = [Image.new("L", (4, 4), level) for level in (0, 90, 200)]
    pages[0].save(tmp_path / "several.tif", save_all=True, append_images=pages[1:])
    for name in ("out/overlay.png", "done.png", "a_mask.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    done = os.path.realpath(tmp_path / "done.png")
    files = FileList([str(tmp_path)], ["*_mask.png"], out, "all")
    play = Play(tmp_path, avoid=str(out), known=lambda real: real == done, chosen=files.chosen)
    several = [f"several.tif#page={number}" for number in range(3)]
    assert play.names(4) == ["b.png", *several]
    assert not any(play.looks(20))
    page = next(one for one in files if one.path.endswith("#page=1"))
    assert play.arrivals.again(page, None)


def test_events_that_the_system_refuses_are_replaced_by_walks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import watchfiles

    def refused(*paths: object, **options: object) -> Iterator[set[object]]:
        raise OSError("OS file watch limit reached")
        yield set()

    monkeypatch.setattr(watchfiles, "watch", refused)
    play = Play(tmp_path, polling=False)
    (tmp_path / "a.png").write_bytes(b"x")
    assert play.names(1) == ["a.png"]
    assert play.said == [
        "The system sends no events (OS file watch limit reached): walking instead, as --polling does."
    ]


def test_without_the_library_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "zsad\[watch\]", or --polling'):
        require_watchfiles()
