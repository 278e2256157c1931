"""The weights files that ship with the package: format, size, vocabulary, and that they tell damaged from normal."""

import hashlib
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from sklearn.metrics import roc_auc_score
from torch import Tensor

from zsad.clip import load_clip
from zsad.clip.embedded import EMBEDDED
from zsad.synthetic import GENERATOR_VERSION, SyntheticSample, split_samples
from zsad.types import CLIP_MEAN, CLIP_STD

FOLDER = Path(str(files("zsad") / "weights"))
FIRST = "8c446cffce730f5abf5bb7d815c63edd845a044ca15fc00eb545556ac973eb36"
"""SHA-256 of the first edition: the name ``zsad-mini`` never changes its meaning."""


@pytest.fixture(scope="module", params=EMBEDDED)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def stored(name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(str(FOLDER / EMBEDDED[name]), framework="pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def test_file_is_small(name: str) -> None:
    assert (FOLDER / EMBEDDED[name]).stat().st_size <= 8_000_000


def test_the_first_edition_is_what_it_was() -> None:
    assert hashlib.sha256((FOLDER / "zsad_mini.safetensors").read_bytes()).hexdigest() == FIRST


def test_header_says_what_the_file_is(stored: tuple[dict[str, str], dict[str, Tensor]]) -> None:
    header, _ = stored
    config = json.loads(header["config"])
    assert set(config) == {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
    assert config["text_cfg"]["vocab_size"] == 49408
    assert config["vision_cfg"]["image_size"] == 96
    assert 1 <= int(header["generator_version"]) <= GENERATOR_VERSION
    assert int(header["images_seen"]) > 0
    assert int(header["seed"]) >= 0


def test_tensors_are_finite_halves_and_the_token_table_is_not_stored(
    stored: tuple[dict[str, str], dict[str, Tensor]],
) -> None:
    tensors = dict(stored[1])
    ids = tensors.pop("token_ids")
    assert ids.dtype == torch.int32
    assert (ids.diff() > 0).all()
    assert "token_embedding.weight" not in tensors
    assert tensors["token_rows"].shape == (len(ids), tensors["unknown_row"].shape[0])
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float16, name
        assert tensor.isfinite().all(), name


def test_vocabulary_is_that_of_the_captions(
    stored: tuple[dict[str, str], dict[str, Tensor]], captions: ModuleType
) -> None:
    ids = stored[1]["token_ids"].long()
    assert torch.equal(ids, captions.vocabulary())
    assert set(captions.SPECIAL_TOKENS) <= set(ids.tolist())


def test_prompts_of_an_unknown_thing_part_by_their_state_alone(name: str) -> None:
    clip = load_clip(name)
    texts = [
        "a photo of a flawless {}.",
        "a photo of a {} without defect.",
        "a photo of a damaged {}.",
        "a photo of a {} with flaw.",
    ]
    features = F.normalize(clip.encode_prompts([text.format("zebra") for text in texts]), dim=-1)
    cosine = features @ features.T
    assert min(cosine[0, 1], cosine[2, 3]) > 0.9
    assert cosine[:2, 2:].max() < -0.8


def located(name: str, samples: Sequence[SyntheticSample]) -> float:
    """Return the pixel AUROC of the last block's state, all pictures together."""
    images = torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    clip = load_clip(name)
    normal, damaged = F.normalize(
        clip.encode_prompts(["a photo of a flawless object.", "a photo of a damaged object."]), dim=-1
    )
    with torch.no_grad():
        tokens = clip.encode_image((images - mean) / std, layers=(clip.depth,)).patches[clip.depth]
    score = F.normalize(tokens, dim=-1) @ (damaged - normal)
    grid = score.unflatten(1, (math.isqrt(score.shape[1]), -1))
    maps = F.interpolate(grid[:, None], size=(96, 96), mode="bilinear")[:, 0].numpy()
    return float(roc_auc_score(np.stack([s.mask for s in samples]).ravel(), maps.ravel()))


def test_never_seen_damage_of_never_seen_things_is_localised() -> None:
    """Catches swapped states, a broken loader, a wrong mean or deviation, and an edition below the one before."""
    samples = split_samples("held-out both", 60)
    first, second = (located(name, samples) for name in EMBEDDED)
    assert 0.75 < first < second
