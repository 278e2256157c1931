"""Joined data sets: what a fit on two benchmarks sees, remembers and is refused, through every door."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from tests.conftest import make_clip
from tests.datamodules.conftest import Write
from tests.methods.test_trained import Curve, trainer
from zsad.benchmark.grid import DataSpec
from zsad.benchmark.train import TrainingDataError, source_for, training_data
from zsad.cli.benchmark import main as benchmark
from zsad.cli.main import main as zsad
from zsad.datamodules import CVCColonDB, Folder, Joined, MVTecAD
from zsad.methods import VAND, AdaCLIP
from zsad.methods.provenance import SameDataError
from zsad.types import ImageProtocol

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PROTOCOL = ImageProtocol(size=32)


@pytest.fixture
def roots(mvtec_tree: Callable[..., None], image: Write, mask: Write, tmp_path: Path) -> tuple[Path, Path]:
    """An MVTec AD of 18 test images in two classes and a ColonDB of 4."""
    mvtec_tree(top="mvtec/")
    for i in range(4):
        image(f"colon/images/{i}.png")
        mask(f"colon/masks/{i}.png")
    return tmp_path / "mvtec", tmp_path / "colon"


def joined(roots: tuple[Path, Path], **options: Any) -> Joined:
    parts = [MVTecAD(roots[0], counts="ignore", stitch=0.3), CVCColonDB(roots[1], counts="ignore")]
    return Joined(parts, **{"batch_size": 4, "protocol": PROTOCOL, **options})


def paths(loader: Any) -> Iterator[str]:
    for batch in loader:
        assert set(batch) == {"image", "class_name", "image_path", "gt_label", "gt_mask"}
        yield from batch["image_path"]


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_all_parts_are_shuffled_together_and_each_comes_once(roots: tuple[Path, Path], workers: int) -> None:
    data = joined(roots, num_workers=workers)
    data.parts[0].stitch = 0.0
    torch.manual_seed(0)
    seen = list(paths(data.train_dataloader()))
    every = [path for part in data.parts for path in paths(part.test_dataloader())]
    assert sorted(seen) == sorted(every)
    assert len(seen) == 22
    colon = [place for place, path in enumerate(seen) if "colon" in path]
    assert len(colon) == 4
    assert colon != list(range(18, 22))
    assert data.name == "mvtec_ad+cvc_colondb"
    assert data.has_masks
    assert data.domain == "industrial"
    assert data.class_names == sorted(["bottle", "grid", *data.parts[1].class_names])


def test_every_part_keeps_its_options(roots: tuple[Path, Path]) -> None:
    dataset: Any = joined(roots).dataset(training=True)
    assert dataset.sizes == [18, 4]
    assert dataset.stitch == 0.3
    assert dataset.augment is None
    for index in (0, 17, 18, 21):
        sample, part = dataset[index], dataset.parts[index >= 18]
        assert torch.equal(sample["gt_mask"], part[index if index < 18 else index - 18]["gt_mask"]) or index < 18
        assert sample["image"].shape == (3, 32, 32)
    shots = Joined([MVTecAD(roots[0], counts="ignore", shots=1), CVCColonDB(roots[1], counts="ignore", shots=3)])
    assert shots.dataset(training=True).sizes == [2, 3]  # type: ignore[attr-defined]


def test_what_one_part_does_not_know_no_sample_has(roots: tuple[Path, Path], image: Write) -> None:
    image("photos/a.png")
    data = Joined([CVCColonDB(roots[1], counts="ignore"), Folder(roots[1].parent / "photos", class_name="x")])
    assert not data.has_masks
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"image", "class_name", "image_path"}


def test_it_takes_two_or_more_and_is_for_training(roots: tuple[Path, Path]) -> None:
    data = joined(roots)
    with pytest.raises(ValueError, match="takes two or more plain data sets"):
        Joined(data.parts[:1])
    with pytest.raises(ValueError, match="takes two or more plain data sets"):
        Joined([data, data.parts[0]])
    running = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(ValueError, match=r"Joined data \(mvtec_ad\+cvc_colondb\) are for training; test each data set"):
        running.test(VAND(make_clip()), data)


@pytest.mark.parametrize("kind", [AdaCLIP, VAND])
def test_a_killed_fit_resumes_alike_and_both_sets_are_refused(
    roots: tuple[Path, Path], tmp_path: Path, kind: type[Any]
) -> None:
    clip = make_clip()

    def model() -> Any:
        return kind(clip, cache="off")

    whole, expected, curve = model(), Curve(), Curve(8)
    trainer(tmp_path / "whole", expected, max_epochs=2).fit(whole, joined(roots))
    with pytest.raises(RuntimeError, match="killed"):
        trainer(tmp_path / "killed", curve, max_epochs=2).fit(model(), joined(roots))
    (saved,) = (tmp_path / "killed").rglob("*.ckpt")
    again, resumed = model(), Curve()
    torch.manual_seed(999)
    trainer(tmp_path / "killed", resumed, max_epochs=2).fit(again, joined(roots), ckpt_path=saved)
    assert (len(expected.losses), len(resumed.losses)) == (12, 6)
    assert resumed.losses == expected.losses[6:]
    assert all(torch.equal(again.state_dict()[name], value) for name, value in whole.state_dict().items())

    assert [(one["name"], one["images"], one["epochs"]) for one in again.trained_on] == [
        ("mvtec_ad", 18, 2),
        ("cvc_colondb", 4, 2),
    ]
    loaded = kind.load_from_checkpoint(next((tmp_path / "whole").rglob("*.ckpt")), backbone=clip)
    for part in joined(roots).parts:
        with pytest.raises(SameDataError, match=r"trained on mvtec_ad \(18 images.*and cvc_colondb \(4 images"):
            trainer(tmp_path).test(loaded, part)


def test_the_token_cache_serves_joined_data(roots: tuple[Path, Path], tmp_path: Path) -> None:
    clip, losses = make_clip(), []
    for cache in ("on", "off"):
        curve, data = Curve(), joined(roots)
        data.parts[0].stitch = 0.0
        trainer(tmp_path, curve, max_epochs=2).fit(VAND(clip, cache=cache, cache_dir=str(tmp_path / "cache")), data)
        losses.append(curve.losses)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert list((tmp_path / "cache").rglob("*.safetensors"))


# ---- the command line


def test_plus_signs_join_and_paths_may_hold_some() -> None:
    both = DataSpec.parse("MVTecAD=data/a+b/mvtec+CVCColonDB=colon:counts=ignore")
    assert both.label == "mvtec_ad+cvc_colondb"
    assert [(part.name, dict(part.options)) for part in both.parts] == [
        ("MVTecAD", {"root": "data/a+b/mvtec"}),
        ("CVCColonDB", {"root": "colon", "counts": "ignore"}),
    ]
    assert DataSpec.parse("MVTecAD=c++").parts == ()
    assert DataSpec.read(json.loads(json.dumps(both.identity()))) == both


def test_a_joined_source_is_foreign_only_if_every_part_is() -> None:
    names = ("MVTecAD=a", "CVCColonDB=b", "BTAD=c", "MVTecAD=a+CVCColonDB=b", "VisA=d+CVCClinicDB=e")
    mvtec, colon, btad, first, second = map(DataSpec.parse, names)
    assert source_for(btad, [first, second]) is first
    assert source_for(mvtec, [first, second]) is second
    assert source_for(colon, [first, second]) is second
    with pytest.raises(TrainingDataError, match="auxiliary data that is not CVCColonDB"):
        source_for(colon, [first])


def test_published_options_go_to_the_part_they_belong_to(roots: tuple[Path, Path]) -> None:
    spec = DataSpec.parse(f"MVTecAD={roots[0]}+CVCColonDB={roots[1]}:counts=ignore")
    epochs, data = training_data(AdaCLIP(make_clip()), spec)
    assert isinstance(data, Joined)
    assert (epochs, data.batch_size) == (5, 1)
    assert [part.stitch for part in data.parts] == [0.2, 0.0]
    assert [part.counts for part in data.parts] == ["warn", "ignore"]
    assert training_data(VAND(make_clip()), DataSpec.parse(f"MVTecAD={roots[0]}"))[0] == 3


def test_the_benchmark_trains_on_both(roots: tuple[Path, Path], tmp_path: Path) -> None:
    train = f"MVTecAD={roots[0]}:counts=ignore+CVCColonDB={roots[1]}:counts=ignore"
    command = ["--methods", "adaclip", "--backbone", "zsad-mini", "--epochs", "1", "--train", train]
    out = tmp_path / "results"
    assert benchmark([*command, "--data", "Synthetic:images=20,classes=[gear]", "--out", str(out)]) == 0
    cell = json.loads(next(out.glob("cells/*/*/*.json")).read_text(encoding="utf-8"))
    assert [one["name"] for one in cell["trained"]["on"]] == ["mvtec_ad", "cvc_colondb"]
    assert [part["name"] for part in cell["run"]["train"][0]["parts"]] == ["MVTecAD", "CVCColonDB"]
    # neither of the two may be its target
    assert benchmark([*command, "--data", f"MVTecAD={roots[0]}:counts=ignore", "--out", str(tmp_path / "no")]) == 1
    with pytest.raises(ValueError, match=r"Joined data \(mvtec_ad\+cvc_colondb\) are for --train"):
        benchmark([*command, "--data", train, "--out", str(out)])


CONFIGS = Path(__file__).parents[2] / "benchmarks" / "configs"


def test_shipped_config_fits(roots: tuple[Path, Path], tmp_path: Path, mvtec_tree: Any) -> None:
    content = yaml.safe_load((CONFIGS / "adaclip" / "train.yaml").read_text(encoding="utf-8"))
    kinds = [part["class_path"].rpartition(".")[2] for part in content["data"]["init_args"]["parts"]]
    assert kinds == ["MVTecAD", "CVCColonDB"]
    content["model"]["init_args"] |= {"backbone": "zsad-mini", "length": 2}
    for part, root, kind in zip(content["data"]["init_args"]["parts"], roots, ("MVTecAD", "CVCColonDB"), strict=True):
        part["class_path"] = f"zsad.datamodules.{kind}"
        part["init_args"] |= {"root": str(root), "counts": "ignore"}
    content["trainer"] |= {"max_steps": 3, "accelerator": "cpu", "default_root_dir": str(tmp_path), "logger": False}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert zsad(["fit", "--config", str(tmp_path / "config.yaml")]) == 0
    (saved,) = tmp_path.rglob("*.ckpt")
    made = torch.load(saved, weights_only=True)["zsad"]["trained_on"]
    assert [one["name"] for one in made] == ["mvtec_ad", "cvc_colondb"]


@pytest.mark.parametrize("method", ["adaclip", "vand", "visualad"])
def test_other_data_of_a_config_as_its_comment_says(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    comment = (CONFIGS / method / "train.yaml").read_text(encoding="utf-8").replace("\\\n#", "")
    (line,) = [line[1:] for line in comment.splitlines() if line.startswith("#   zsad fit")]
    command = shlex.split(line)[1:]
    command[command.index("--config") + 1] = str(CONFIGS / method / "train.yaml")
    with pytest.raises(SystemExit) as ended:
        zsad([*command, "--print_config"])
    assert ended.value.code == 0
    found = yaml.safe_load(capsys.readouterr().out)
    kinds = [part["class_path"] for part in found["data"]["init_args"].get("parts", [found["data"]])]
    expected = ["VisA", "CVCClinicDB"] if method == "adaclip" else ["MVTecAD"]
    assert [kind.rpartition(".")[2] for kind in kinds] == expected
    assert found["trainer"]["max_epochs"] == {"adaclip": 5, "vand": 3, "visualad": 2}[method]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_masks_that_other_parts_lack_stay_in_batches_of_one(
    roots: tuple[Path, Path], image: Write, tmp_path: Path, batch_size: int
) -> None:
    for kind in ("good", "bad"):
        image(f"plain/slide/test/{kind}/0.png")
    parts = [CVCColonDB(roots[1], counts="ignore"), Folder(tmp_path / "plain", train_split="test")]
    data = Joined(parts, batch_size=batch_size, protocol=PROTOCOL)
    found = [(path, "gt_mask" in batch) for batch in data.train_dataloader() for path in batch["image_path"]]
    assert len(found) == 6
    assert all(masked is (batch_size == 1 and "colon" in path) for path, masked in found)
