"""Attacks on the door for checkpoints: marker files that code would write, a server that records who asks."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from PIL import Image

from zsad.cli import main as cli
from zsad.clip import Clip
from zsad.datamodules import Folder
from zsad.inference import load_model
from zsad.methods import ALFA, CLIP, VAND, AdaCLIP, AnomalyCLIP, CheckpointError, CoOp
from zsad.methods.aaclip.adapters import read_adapter
from zsad.synthetic import generate
from zsad.weights.checkpoints import CheckpointFiles, read_checkpoint, read_tensors
from zsad.weights.files import DiskError, write_whole


class Attack:
    """Unpickled, it runs a program that leaves a marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def evil(tmp_path: Path, marker: Path) -> Path:
    """A checkpoint of this library's layout with code in it; opening it carelessly does run the code."""
    content = {"zsad": {"method": "CoOp"}, "state_dict": {}, "hyper_parameters": {"x": Attack(marker)}}
    path = tmp_path / "evil.ckpt"
    torch.save(content, path)
    torch.load(path, weights_only=False)
    assert marker.exists(), "the attack itself does not work"
    marker.unlink()
    return path


class Recorder:
    """A server on this machine that hands out a file and keeps what it was asked."""

    def __init__(self, content: bytes) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                recorder.asked.append((self.path, str(self.headers), body))
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_HEAD = _answer  # noqa: N815 (the library's names)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def recorder(evil: Path) -> Iterator[Recorder]:
    made = Recorder(evil.read_bytes())
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for part, defect in (("good", ""), ("bad", "hole")):
        (tmp_path / "data" / "test" / part).mkdir(parents=True)
        Image.fromarray(generate("coin", defect, seed=1).image).save(tmp_path / "data" / "test" / part / "0.png")
    return tmp_path / "data"


def _command(name: str, model: str, pictures: Path, checkpoint: object, *more: str) -> list[str]:
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    fit = ["--trainer.max_epochs=1"] if name == "fit" else []
    return [
        name, "--model", model, "--model.backbone=zsad-mini", "--data", "Folder", "--data.root", str(pictures),
        "--ckpt_path", str(checkpoint), *quiet, *fit, *more,
    ]  # fmt: skip


# ---- code


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("where", ["url", "file"])
def test_a_command_runs_no_code_of_a_checkpoint(
    command: str,
    where: str,
    evil: Path,
    marker: Path,
    recorder: Recorder,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    checkpoint = f"{recorder.url}/x.ckpt" if where == "url" else evil
    assert cli.main(_command(command, "CoOp", pictures, checkpoint)) == 2
    shown = capsys.readouterr().err.partition("zsad: error: ")[2]
    assert ("read from this machine only" if where == "url" else "never code") in shown
    assert len(shown.strip().splitlines()) == 1
    assert "Traceback" not in shown
    assert not marker.exists()
    assert not recorder.asked


READERS: dict[str, Callable[[Any], Any]] = {
    "load_from_checkpoint": AnomalyCLIP.load_from_checkpoint,
    "training-free": CLIP.load_from_checkpoint,
    "data module": Folder.load_from_checkpoint,
    "load_model": lambda path: load_model("coop", "zsad-mini", path),
    "read_checkpoint": read_checkpoint,
    "read_tensors": read_tensors,
    "from_weights": AnomalyCLIP.from_weights,
    "authors' AnomalyCLIP": lambda path: AnomalyCLIP.from_author_checkpoint(path, "zsad-mini"),
    "authors' VAND": lambda path: VAND.from_author_checkpoint(path, "zsad-mini"),
    "authors' AdaCLIP": lambda path: AdaCLIP.from_author_checkpoint(path, "zsad-mini"),
    "AA-CLIP's stages": lambda path: read_adapter(path, "text_adapter"),
    "CheckpointIO": CheckpointFiles().load_checkpoint,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("where", ["url", "chain", "registry", "file", "folder", "legacy"])
def test_no_reader_runs_code_or_asks_the_network(
    reader: str,
    where: str,
    evil: Path,
    marker: Path,
    recorder: Recorder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # an environment variable opens no door
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / ".metadata").write_bytes(pickle.dumps(Attack(marker)))
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps({"state_dict": Attack(marker)}))
    source = {
        "url": f"{recorder.url}/x.ckpt",
        "chain": f"simplecache::{recorder.url}/x.ckpt",
        "registry": "registry:team/model",
        "file": evil,
        "folder": tmp_path / "shards",
        "legacy": tmp_path / "old.ckpt",
    }[where]
    with pytest.raises(CheckpointError, match=r"this machine only|cannot be read|folder|not written by|not restored"):
        READERS[reader](source)
    assert not marker.exists()
    assert not recorder.asked


def test_weights_only_cannot_be_switched_off(
    evil: Path, marker: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for load in (CoOp.load_from_checkpoint, CheckpointFiles().load_checkpoint):
        with pytest.raises(ValueError, match="weights_only=False is refused"):
            load(evil, weights_only=False)
    assert cli.main(_command("test", "CoOp", pictures, evil, "--weights_only=false")) == 2
    assert "weights_only=False is refused" in capsys.readouterr().err
    assert not marker.exists()


def test_every_trainer_gets_the_door_by_itself(
    evil: Path, marker: Path, recorder: Recorder, pictures: Path, tmp_path: Path
) -> None:
    def trainer(**options: Any) -> Trainer:
        return Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, **options
        )

    for source in (evil, f"{recorder.url}/x.ckpt", "registry:team/model"):
        with pytest.raises((CheckpointError, ModuleNotFoundError, ValueError)):
            trainer().test(CoOp("zsad-mini"), datamodule=Folder(pictures), ckpt_path=source)
    with pytest.raises(ValueError, match="weights_only=False is refused"):
        trainer().test(CoOp("zsad-mini"), datamodule=Folder(pictures), ckpt_path=evil, weights_only=False)
    assert not marker.exists()
    assert not recorder.asked
    running = trainer()
    running.predict(CLIP("zsad-mini"), Folder(pictures))
    assert isinstance(running.strategy.checkpoint_io, CheckpointFiles)

    class Own(TorchCheckpointIO):
        pass

    running = trainer(plugins=[Own()])
    running.predict(CLIP("zsad-mini"), Folder(pictures))
    assert isinstance(running.strategy.checkpoint_io, Own), "a user's own stays"


def test_a_checkpoint_names_no_function_to_call(tiny: Clip, tmp_path: Path) -> None:
    """Lightning up to 2.6.5 imports and calls what '_instantiator' names."""
    path = _saved(CoOp(tiny), tmp_path / "a.ckpt", _instantiator="antigravity.geohash", _class_path="this.Model")
    loaded = CoOp.load_from_checkpoint(path, backbone=tiny)
    assert isinstance(loaded, CoOp)
    assert not {"antigravity", "this"} & set(sys.modules)


def test_a_class_path_in_a_checkpoint_is_not_imported(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lurking_package.py").write_text("import pathlib; pathlib.Path('marker').touch()\nclass Model: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = _saved(CoOp("zsad-mini"), tmp_path / "a.ckpt", _class_path="lurking_package.Model")
    assert cli.main(_command("test", "CoOp", pictures, path)) == 0
    assert not (tmp_path / "marker").exists()
    assert "lurking_package" not in sys.modules


# ---- options that a file may set


def _saved(method: Any, path: Path, **options: Any) -> Path:
    """A checkpoint that a Trainer wrote, with other options in it."""
    running = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    running.strategy.connect(method)
    running.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"] |= options
    torch.save(content, path)
    return path


def test_a_checkpoint_names_no_endpoint_and_no_secret(
    recorder: Recorder,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
    llm = {"backend": "endpoint", "base_url": recorder.url, "model": "m", "api_key_env": "AWS_SECRET_ACCESS_KEY"}
    path = _saved(ALFA("zsad-mini"), tmp_path / "evil.ckpt", llm=llm, llm_cache="refresh", cache_dir=str(tmp_path))
    out = ["--out", str(tmp_path / "out"), "--checkpoint", str(path), "--backbone", "zsad-mini", "--class-name", "coin"]
    assert cli.main(["score", str(pictures), "--method", "alfa", *out]) == 2
    shown = capsys.readouterr().err
    assert "A file never sets llm" in shown
    assert "give llm again by hand, or llm='packaged'" in shown
    assert not recorder.asked
    # given again by hand, the rest of the checkpoint is used, and where answers are kept is not
    assert cli.main(["score", str(pictures), "--method", "alfa", *out, "--option", "llm=packaged"]) == 0
    assert not recorder.asked
    method: Any = load_model("alfa", "zsad-mini", path, llm="packaged").method
    assert method.hparams["cache_dir"] is None


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"references": "/etc"}, "references"),
        ({"prompts": "../mine.yaml"}, "prompts"),
        ({"prompts": "/etc/passwd"}, "prompts"),
        ({"sigma": "4"}, "sigma"),
        ({"normal_words": 3}, "normal_words"),
    ],
)
def test_paths_and_values_of_other_types_are_not_taken(
    options: dict[str, Any], name: str, tiny: Clip, tmp_path: Path
) -> None:
    kind = VAND if name == "prompts" else CoOp
    path = _saved(kind(tiny), tmp_path / "a.ckpt", **options)
    with pytest.raises(CheckpointError, match=f"A file never sets {name}"):
        kind.load_from_checkpoint(path, backbone=tiny)


def test_unknown_options_are_refused(tiny: Clip, tmp_path: Path) -> None:
    path = _saved(CoOp(tiny), tmp_path / "a.ckpt", start_program="x")
    with pytest.raises(CheckpointError, match="sets 'start_program', which CoOp does not have"):
        CoOp.load_from_checkpoint(path, backbone=tiny)


@pytest.mark.parametrize("name", ["ViT-B-32//etc/x.pt", "hf-hub:evil/model", "local-dir:/tmp/x", "ViT-B-32/http://x/y"])
def test_a_file_does_not_say_where_a_backbone_lies(name: str, tiny: Clip, tmp_path: Path) -> None:
    path = _saved(CoOp(tiny), tmp_path / "a.ckpt", backbone=name)
    with pytest.raises(CheckpointError, match="A file never says where weights are read from"):
        load_model("coop", checkpoint=path)
    weights = CoOp(tiny).save_weights(tmp_path / "a.safetensors")  # names 'tiny-test-0', which nobody knows
    with pytest.raises(CheckpointError, match="none of open_clip's names"):
        CoOp.from_weights(weights)


def test_paths_of_the_user_are_stored_as_text(tiny: Clip, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "references").mkdir()
    Image.fromarray(generate("coin", "", seed=2).image).save(tmp_path / "references" / "0.png")
    method = CLIP("zsad-mini", references=tmp_path / "references")
    running = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    running.predict(method, Folder(pictures))
    running.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="A file never sets references"):
        CLIP.load_from_checkpoint(tmp_path / "a.ckpt")
    assert CLIP.load_from_checkpoint(tmp_path / "a.ckpt", references=None).references is None


# ---- whose checkpoint, and whose options


def test_a_checkpoint_of_another_class_is_refused(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _saved(AnomalyCLIP("zsad-mini"), tmp_path / "anomalyclip.ckpt")
    assert cli.main(_command("test", "VAND", pictures, path)) == 2
    assert "was written by AnomalyCLIP, not by VAND" in capsys.readouterr().err


def test_options_by_hand_win_or_are_refused(tiny: Clip, tmp_path: Path) -> None:
    path = _saved(AnomalyCLIP(tiny, sigma=8.0, n_ctx=5, shot_seed=3), tmp_path / "a.ckpt")
    assert AnomalyCLIP.load_from_checkpoint(path, backbone=tiny).sigma == 8
    loaded = AnomalyCLIP.load_from_checkpoint(path, backbone=tiny, sigma=0, n_ctx=5)
    assert (loaded.sigma, loaded.shot_seed) == (0, 3)
    with pytest.raises(CheckpointError, match=r"trained with n_ctx=5, which decides what it learned: .* with n_ctx=12"):
        AnomalyCLIP.load_from_checkpoint(path, backbone=tiny, n_ctx=12)
    weights = AnomalyCLIP(tiny, temperature=0.1).save_weights(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"temperature=0\.1, which decides what it learned"):
        AnomalyCLIP.from_weights(weights, tiny, temperature=0.07)


def test_options_by_hand_win_on_the_command_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = _saved(CoOp("zsad-mini", sigma=8.0, n_ctx=3), tmp_path / "a.ckpt")
    seen: list[tuple[float, int]] = []
    start = CoOp.on_test_start

    def spy(self: CoOp) -> None:
        seen.append((self.sigma, self.prompts.n_ctx))
        start(self)

    monkeypatch.setattr(CoOp, "on_test_start", spy)
    assert cli.main(_command("test", "CoOp", pictures, path)) == 0
    assert cli.main(_command("test", "CoOp", pictures, path, "--model.sigma=4.0")) == 0  # the class's default, typed
    assert cli.main(_command("test", "CoOp", pictures, path, "--model.sigma=0", "--model.n_ctx=3")) == 0
    assert seen == [(8, 3), (4, 3), (0, 3)]
    assert cli.main(_command("test", "CoOp", pictures, path, "--model.n_ctx=16")) == 2
    assert "trained with n_ctx=3, which decides what it learned" in capsys.readouterr().err


# ---- writing


def test_a_checkpoint_stands_under_its_name_only_when_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "last.ckpt"
    CheckpointFiles().save_checkpoint({"step": torch.tensor(1)}, path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match=r"Cannot write '.*last\.ckpt': No space left .* takes .* are free in '.*deep'"):
        CheckpointFiles().save_checkpoint({"step": torch.zeros(5000)}, path)
    assert read_checkpoint(path)["step"] == 1
    assert [one.name for one in path.parent.iterdir()] == ["last.ckpt"]


def test_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "x.bin", b"old")
    code = (
        "import os, sys; from zsad.weights.files import write_whole; "
        "os.fsync = lambda number: os.kill(os.getpid(), 9); write_whole(sys.argv[1], b'n' * 100000)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert path.read_bytes() == b"old"


def test_checkpoints_are_removed_and_url_targets_refused(tmp_path: Path) -> None:
    files = CheckpointFiles()
    files.save_checkpoint({}, tmp_path / "a.ckpt")
    files.remove_checkpoint(tmp_path / "a.ckpt")
    files.remove_checkpoint(tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="written to this machine only"):
        files.save_checkpoint({}, "memory://a.ckpt")
    with pytest.raises(TypeError, match="takes no storage_options"):
        files.save_checkpoint({}, tmp_path / "a.ckpt", storage_options={})
