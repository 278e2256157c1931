"""Cards that come with learned parameters: inside a checkpoint or weights file, in a folder, on the Hub."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.methods.test_pretrained import Hub, hub  # noqa: F401  (a fixture)
from zsad import load_model
from zsad.cli.main import main
from zsad.decision import Card, CardError
from zsad.inference.shipped import ship, shipped_card, shipped_cards
from zsad.methods import AnomalyCLIP, CheckpointError
from zsad.synthetic import generate
from zsad.weights.checkpoints import read_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine good pictures, parameters as a weights file and as a Lightning checkpoint, and cards of two classes."""
    root = tmp_path_factory.mktemp("shipped")
    (root / "good").mkdir()
    for seed in range(9):
        Image.fromarray(generate("leather", seed=seed).image).save(root / "good" / f"{seed}.png")
    model = AnomalyCLIP("zsad-mini", n_ctx=3, depth=2, seed=9)
    model.trained_on = [{"name": "mvtec_ad", "classes": None, "images": 12, "epochs": 2}]
    model.save_weights(root / "own.safetensors")
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), "optimizer_states": [3]}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, root / "own.ckpt")
    loaded = load_model("anomalyclip", "zsad-mini", root / "own.safetensors", "cpu")
    for name in ("leather", "cork/dark"):
        loaded.calibrate(root / "good", name, alpha=0.1).save(root / f"{name[:4]}.card.json")
    return root


@pytest.mark.parametrize("name", ["own.safetensors", "own.ckpt"])
def test_a_checkpoint_carries_cards_and_stays_what_it_was(folder: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    shutil.copy(folder / name, path)
    before = read_checkpoint(path)
    assert shipped_cards(path) == []
    with pytest.raises(CardError, match=r"own\.\w+' ships no calibration card for precision 32: make one with"):
        load_model("anomalyclip", "zsad-mini", path, "cpu", calibration="shipped")
    leather, cork = Card.load(folder / "leat.card.json"), Card.load(folder / "cork.card.json")
    for card in (leather, cork, leather):  # the last one takes the place of the first
        assert ship(card, path) == path
    after = read_checkpoint(path)
    assert [list(one["classes"]) for one in after["zsad"].pop("calibration")] == [["cork/dark"], ["leather"]]
    for part in ("zsad", "state_dict", "hyper_parameters"):
        assert set(after[part]) == set(before[part])
        for key, value in after[part].items():
            same = torch.equal if isinstance(value, torch.Tensor) else lambda one, other: one == other
            assert same(value, before[part][key]), key
    assert after.get("optimizer_states") == before.get("optimizer_states")
    model = load_model("anomalyclip", "zsad-mini", path, "cpu", calibration="shipped")
    result = model.predict(folder / "good" / "3.png", "leather")
    assert result.p_value == pytest.approx(leather.p_value(result.pred_score))
    assert model.calibration is not None
    assert list(model.calibration.classes) == ["cork/dark", "leather"]


def test_the_cards_of_a_checkpoint_go_into_the_folder_for_others(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    shutil.copy(folder / "own.safetensors", path)
    cards = [Card.load(folder / f"{name}.card.json") for name in ("leat", "cork")]
    for card in cards:
        ship(card, path)
    command = ["weights", "card", str(path), "--out", str(tmp_path / "out"), "--no-metrics", "--licence", "mit"]
    assert main(command) == 0
    assert {one.name for one in (tmp_path / "out" / "calibration").iterdir()} == {"leather.json", "cork%2Fdark.json"}
    assert {one.digest for one in shipped_cards(tmp_path / "out")} == {one.digest for one in cards}
    assert shipped_cards(tmp_path / "out" / "adapters.safetensors") == []  # beside, and not inside as well
    model = load_model("anomalyclip", "zsad-mini", tmp_path / "out", "cpu", calibration="shipped")
    assert model.calibration is not None
    assert len(model.calibration.classes) == 2
    other = AnomalyCLIP.from_weights(path)
    assert len(other.cards) == 2
    other.save_weights(tmp_path / "again.safetensors")
    assert len(shipped_cards(tmp_path / "again.safetensors")) == 2


def test_the_command_line_puts_it_there_and_takes_it_from_there(folder: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "own.safetensors", tmp_path / "leather.card.json"
    shutil.copy(folder / "own.safetensors", path)
    model = ["--method", "anomalyclip", "--backbone", "zsad-mini", "--checkpoint", str(path), "--device", "cpu"]
    base = ["calibrate", str(folder / "good"), "--out", str(out), "--class-name", "leather", "--alpha", "0.1", *model]
    assert main([*base, "--into", str(tmp_path / "other.safetensors")]) == 2
    assert main([*base, "--into", str(path)]) == 0
    run = ["score", str(folder / "good"), "--out", str(tmp_path / "run"), "--no-overlays", "--calibration", "shipped"]
    assert main([*run, "--checkpoint", str(path), "--device", "cpu"]) == 0  # method, backbone and class are the card's
    rows = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").read_text().splitlines()]
    assert len(rows) == 9
    assert {row["class_name"] for row in rows} == {"leather"}
    assert all(row["p_value"] is not None for row in rows)
    assert main(["score", str(folder / "good"), "--out", str(tmp_path / "none"), "--calibration", "shipped"]) == 2


def test_what_does_not_belong_there_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.ckpt"
    shutil.copy(folder / "own.ckpt", path)
    card = Card.load(folder / "leat.card.json")
    other = Card({**card.model, "method": "CoOp"}, card.protocol, card.classes)
    with pytest.raises(CheckpointError, match="holds parameters of AnomalyCLIP, the card is of CoOp"):
        ship(other, path)
    torch.save({"prompt_learner": torch.zeros(3)}, tmp_path / "authors.pth")
    with pytest.raises(CheckpointError, match="was not written by zsad: a card goes beside it"):
        ship(card, tmp_path / "authors.pth")
    rounded = Card({**card.model, "precision": "bf16"}, card.protocol, card.classes)
    ship(rounded, path)
    with pytest.raises(CardError, match="no calibration card for precision 32, only for precision bf16 in torch"):
        shipped_card(path)
    ship(card, path)  # beside that of another precision
    assert shipped_card(path).digest == card.digest
    assert shipped_card(path, "bf16").digest == rounded.digest
    changed = AnomalyCLIP.from_weights(folder / "own.safetensors")
    with torch.no_grad():
        changed.prompts.ctx_normal.add_(1)
    changed.cards = [json.loads(card.to_json())]
    changed.save_weights(tmp_path / "changed.safetensors")
    with pytest.raises(CardError, match="made with learned parameters"):
        load_model("anomalyclip", "zsad-mini", tmp_path / "changed.safetensors", "cpu", calibration="shipped")
    saved = read_checkpoint(path)
    saved["zsad"]["calibration"] = [{"format": "zsad-calibration/1", "scores": [np.pi]}]
    torch.save(saved, path)
    with pytest.raises(CardError, match=r"own\.ckpt' carries something that is no calibration card: 'classes' is"):
        shipped_cards(path)


def test_on_the_hub(folder: Path, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    made = AnomalyCLIP.from_weights(folder / "own.safetensors")
    made.cards = [json.loads((folder / "leat.card.json").read_text())]
    made.push_to_hub("me/adapters", token="x", licence="mit", metrics=False)
    assert "calibration/leather.json" in hub.files["me/adapters"]
    model = load_model("anomalyclip", "zsad-mini", "hub:me/adapters", "cpu", calibration="shipped")
    assert model.calibration is not None
    assert model.calibration.digest == Card.load(folder / "leat.card.json").digest
    count = len(hub.asked)
    again = load_model("anomalyclip", "zsad-mini", "hub:me/adapters", "cpu", calibration="shipped", offline=True)
    assert again.calibration is not None
    assert len(hub.asked) == count
