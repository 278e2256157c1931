"""The cache on disk: exact, atomic, keyed by content, and small in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from zsad.clip.tensor_store import CacheWriteError, TokenCache, default_folder, tensor_key, tower_key
from zsad.clip.token_cache import CachedSamples, cache_samples
from zsad.training.order import EpochSampler


class Images(Dataset[Any]):
    """Random images with masks; index 2 cannot be read if ``broken``."""

    augment = None

    def __init__(self, number: int = 6, broken: bool = False) -> None:
        self.number, self.broken = number, broken

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> Any:
        if self.broken and index == 2:
            return "unreadable"
        random = torch.Generator().manual_seed(index)
        image = torch.randn(3, 8, 8, generator=random)
        mask = (torch.rand(8, 8, generator=random) > 0.7) & bool(index % 2)
        path = f"{index}.png"
        return {"image": image, "gt_mask": mask, "gt_label": index % 2, "class_name": "nut", "image_path": path}


class Tower:
    """A frozen tower that counts its images."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        self.seen += len(image)
        return {"cls": image.mean(dim=(2, 3)), "patches": image.flatten(2).transpose(1, 2)}


def fill(dataset: Images, tower: Tower, cache: TokenCache, **options: Any) -> list[Any]:
    return list(cache_samples(dataset, tower, cache, batch_size=4, **options))


def test_tensors_come_back_exactly(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    values = {"a": torch.randn(3, 5), "b": torch.arange(4), "c": torch.randn(3, 4)[:, ::2]}
    cache.put("key", values)
    assert "key" in cache
    assert "other" not in cache
    got = cache.get("key")
    assert got.keys() == values.keys()
    for name, value in values.items():
        assert torch.equal(got[name], value)


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    values = {"a": torch.randn(1000)}
    full, half = TokenCache(tmp_path / "float32", "float32"), TokenCache(tmp_path / "float16", "float16")
    sizes = [cache.put("key", values) for cache in (full, half)]
    assert sizes[1] < 0.55 * sizes[0]
    got = half.get("key")["a"]
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), values["a"], rtol=2**-11, atol=1e-7)


def test_the_tower_sees_each_image_once(tmp_path: Path) -> None:
    tower = Tower()
    first = fill(Images(), tower, TokenCache(tmp_path))
    assert tower.seen == 6
    again = fill(Images(), tower, TokenCache(tmp_path))
    assert tower.seen == 6
    assert again == first
    fill(Images(8), tower, TokenCache(tmp_path))
    assert tower.seen == 8


def test_cached_samples_are_the_samples(tmp_path: Path) -> None:
    dataset, cache = Images(), TokenCache(tmp_path)
    cached = CachedSamples(fill(dataset, Tower(), cache), cache)
    for index in range(len(dataset)):
        sample, expected = cached[index], dataset[index]
        assert sample is not None
        image = expected.pop("image")
        features = sample.pop("features")
        assert torch.equal(features["patches"], image.flatten(1).T)
        assert torch.equal(sample.pop("gt_mask"), expected.pop("gt_mask"))
        assert sample == expected


def test_unreadable_images_are_left_out(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    cached = CachedSamples(fill(Images(broken=True), Tower(), cache), cache)
    assert cached[2] is None
    batches = list(cached.loader(DataLoader(Images(), batch_size=3)))
    assert [batch["image_path"] for batch in batches] == [["0.png", "1.png"], ["3.png", "4.png", "5.png"]]
    assert list(cached.loader(DataLoader(Images(), sampler=[2]))) == [None]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_worker_processes_change_nothing(tmp_path: Path, num_workers: int) -> None:
    entries = fill(Images(), Tower(), TokenCache(tmp_path), num_workers=num_workers)
    assert [entry["features"] for entry in entries] == [tensor_key(Images()[i]["image"]) for i in range(6)]


def test_images_of_different_sizes(tmp_path: Path) -> None:
    class Mixed(Images):
        def __getitem__(self, index: int) -> Any:
            sample = super().__getitem__(index)
            return {**sample, "image": sample["image"][:, : 4 + 2 * (index % 2)]}

    cache = TokenCache(tmp_path)
    entries = fill(Mixed(), Tower(), cache)
    assert [len(cache.get(entry["features"])["patches"]) for entry in entries] == [32, 48, 32, 48, 32, 48]


def test_a_damaged_entry_is_written_anew(tmp_path: Path) -> None:
    tower, cache = Tower(), TokenCache(tmp_path)
    entries = fill(Images(), tower, cache)
    path = cache.path(entries[1]["features"])
    path.write_bytes(path.read_bytes()[:-5])
    fill(Images(), tower, cache)
    assert tower.seen == 7


def test_a_missing_entry_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Entry 'gone' of the token cache .* start the fit again"):
        TokenCache(tmp_path).get("gone")


WRITER = """
import sys, torch
from pathlib import Path
from zsad.clip.tensor_store import TokenCache
cache = TokenCache(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    for n in range(20):
        cache.put(str(n), {"a": torch.full((200_000,), float(n))})
"""


def test_two_processes_and_a_kill_leave_only_whole_entries(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    cache, read = TokenCache(tmp_path), 0
    until = time.monotonic() + 30
    while (read < 200 or "19" not in cache) and time.monotonic() < until:
        for n in range(20):
            if str(n) in cache:
                assert (cache.get(str(n))["a"] == n).all()
                read += 1
    for writer in writers:
        writer.kill()
        writer.wait()
    assert read >= 200
    for path in tmp_path.glob("*.safetensors"):
        assert (cache.get(path.stem)["a"] == float(path.stem)).all()
    for left in tmp_path.glob("*.part"):  # what the kill left behind goes when it is old
        os.utime(left, (0, 0))
    TokenCache(tmp_path)
    assert not list(tmp_path.glob("*.part"))


def test_a_full_disk_is_said_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1500))
    with pytest.raises(CacheWriteError, match="cache_dir= a folder on another disk, or cache_dtype='float16'"):
        fill(Images(400), Tower(), TokenCache(tmp_path))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    with pytest.raises(CacheWriteError, match="Cannot write to the token cache"):
        cache.put("key", {"a": torch.ones(1)})


def test_keys_tell_weights_structure_and_settings_apart() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(3, 3)
    tower = nn.Sequential(linear, nn.GELU())
    key = tower_key(tower, {"layers": (1, 2)})
    assert tower_key(tower, {"layers": (1, 2)}) == key
    assert tower_key(tower, {"layers": (1, 3)}) != key
    assert tower_key(nn.Sequential(linear, nn.ReLU()), {"layers": (1, 2)}) != key
    with torch.no_grad():
        linear.weight[2, 1] += 1e-6
    assert tower_key(tower, {"layers": (1, 2)}) != key
    assert tensor_key(torch.zeros(2, 3)) != tensor_key(torch.zeros(3, 2))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(range(50), seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 0) == order(1, 0) != order(1, 1)
    assert order(1, 3) == order(2, 2)
    assert sorted(order(5, 7)) == list(range(50))
    torch.manual_seed(3)
    assert order(1, 0) == list(EpochSampler(range(50), 1))


MEASURE = """
import sys, torch
from pathlib import Path
from torch.utils.data import DataLoader, Dataset
from zsad.clip.tensor_store import TokenCache
from zsad.clip.token_cache import CachedSamples, cache_samples

class Images(Dataset):
    def __init__(self, number): self.number = number
    def __len__(self): return self.number
    def __getitem__(self, i):
        image, mask = torch.full((3, 64, 64), float(i)), torch.ones(64, 64, dtype=bool)
        return {"image": image, "gt_mask": mask, "image_path": str(i)}

def anonymous():  # kB that no file backs
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])

def peak(number):
    cache = TokenCache(Path(sys.argv[1], str(number)))
    seen = []
    def encode(image):
        seen.append(anonymous())
        return {"patches": image.mean((1, 2, 3)).view(-1, 1).repeat(1, 250_000)}  # 1 MB each
    cached = CachedSamples(list(cache_samples(Images(number), encode, cache, 4)), cache)
    for batch in cached.loader(DataLoader(Images(number), 4, shuffle=True)):
        batch["features"]["patches"].sum()
        seen.append(anonymous())
    return max(seen)

peak(12)
print(peak(72) - peak(12))
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    growth = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert growth < 20_000  # kB; the features of the other 60 images take 60,000


def test_the_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("ZSAD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_folder() == tmp_path / "x" / "zsad" / "tokens"


def test_unknown_precision(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cache_dtype must be 'float32' or 'float16', got 'int8'"):
        TokenCache(tmp_path, "int8")  # type: ignore[arg-type]
