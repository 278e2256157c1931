import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import make_clip
from zsad.cli.doctor import main as doctor
from zsad.clip import Clip
from zsad.clip.text_store import TextStore, TextStoreWarning
from zsad.inference import load_model
from zsad.synthetic import generate

PROMPTS = ["a photo of a bolt", "a damaged bolt", "a photo of a bolt"]


@pytest.fixture
def kept(tmp_path: Path) -> Clip:
    """A backbone of its own that keeps what it computes."""
    clip = make_clip()
    clip.text_store = TextStore(tmp_path / "text")
    return clip


def encoded(clip: Clip, monkeypatch: pytest.MonkeyPatch, prompts: list[str] = PROMPTS) -> tuple[Tensor, int]:
    """Embeddings, and how many texts the tower saw."""
    seen = [0]
    run = type(clip).encode_text

    def counted(self: Clip, ids: Tensor, step: None = None) -> Tensor:
        seen[0] += len(ids)
        return run(self, ids, step)

    with monkeypatch.context() as patch:
        patch.setattr(type(clip), "encode_text", counted)
        return clip.encode_prompts(prompts), seen[0]


def files(clip: Clip) -> list[Path]:
    assert clip.text_store is not None
    return [path for _, _, path in clip.text_store.entries()]


def test_the_tower_sees_prompts_once_per_machine(kept: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    first, seen = encoded(kept, monkeypatch)
    assert seen == 2
    other = make_clip()  # another process
    other.text_store = kept.text_store
    again, seen = encoded(other, monkeypatch)
    assert seen == 0
    assert torch.equal(first, again)
    assert torch.equal(first, make_clip().encode_prompts(PROMPTS))


def test_whatever_decides_the_embeddings_is_in_the_key(kept: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded(kept, monkeypatch)
    assert encoded(kept, monkeypatch, ["a photo of a bolt", "a damaged nut"])[1] == 2
    with torch.no_grad():
        kept.model.ln_final.weight[0] += 1e-3  # in place
    assert encoded(kept, monkeypatch)[1] == 2
    with torch.no_grad():
        kept.model.visual.proj[0] += 1  # the image tower has no say
    assert encoded(kept, monkeypatch)[1] == 0
    assert encoded(kept.cast("bf16"), monkeypatch)[1] == 2
    gelu = make_clip(quick_gelu=True)
    gelu.text_store = kept.text_store
    assert encoded(gelu, monkeypatch)[1] == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert encoded(kept, monkeypatch)[1] == 2
    assert len(files(kept)) == 5


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "other file"])
def test_damaged_entries_are_computed_again_with_a_warning(
    kept: Clip, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    expected, _ = encoded(kept, monkeypatch)
    (path,) = files(kept)
    content = path.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes({"cut": content[:-9], "empty": b"", "flipped": flipped, "other file": b"x" * 99}[damage])
    with pytest.warns(TextStoreWarning, match="damaged and computed again"):
        found, seen = encoded(kept, monkeypatch)
    assert seen == 2
    assert torch.equal(found, expected)
    assert path.read_bytes() == content
    assert encoded(kept, monkeypatch)[1] == 0


def test_entries_that_were_not_used_for_longest_make_way(tmp_path: Path) -> None:
    store = TextStore(tmp_path, most=5000)
    for number, name in enumerate("abc"):
        store.put(name, torch.full((500,), float(number)))
        os.utime(tmp_path / f"{name}.safetensors", (number, number))
        if name == "b":
            assert store.get("a") is not None  # used again: now the newest
    assert [path.stem for _, _, path in store.entries()] == ["c", "a"]
    assert sum(size for _, size, _ in store.entries()) <= 5000


def test_a_model_that_was_made_in_inference_mode_keeps_its_texts(tmp_path: Path) -> None:
    with torch.inference_mode():
        clip = make_clip()
        clip.text_store = TextStore(tmp_path)
        assert torch.equal(clip.encode_prompts(PROMPTS), clip.encode_prompts(PROMPTS))


def test_a_folder_that_cannot_be_written_to_costs_nothing_but_time(
    kept: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    kept.text_store = TextStore(tmp_path / "file" / "text")
    with pytest.warns(TextStoreWarning, match="Text embeddings are not kept: Cannot make"):
        assert encoded(kept, monkeypatch)[1] == 2


def test_load_model_keeps_texts_and_the_doctor_shows_and_clears_them(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = generate("gear", "hole", seed=0).image
    first = load_model("anovl", "zsad-mini", device="cpu", views="none").predict(picture, "gear")
    (path,) = (home / "text").glob("*.safetensors")
    stamp = path.stat().st_ino
    second = load_model("anovl", "zsad-mini", device="cpu", views="none").predict(picture, "gear")
    assert path.stat().st_ino == stamp  # read, not written anew
    assert second.pred_score == first.pred_score
    assert doctor(["--clear-cache"]) == 0
    assert "MB of text embeddings were deleted" in capsys.readouterr().out
    assert not list((home / "text").iterdir())
