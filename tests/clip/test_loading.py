"""Every way to a backbone, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from zsad.clip import ActivationMismatchError, Clip, WeightsError, load_clip
from zsad.clip.loading import cached_weights


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> str:
    """A small architecture under a name of its own in open_clip's list of configurations."""
    config: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "zsad-test-small", config)
    return "zsad-test-small"


def test_random_weights_are_reproducible_and_leave_the_generator_alone(small_model: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = load_clip(f"{small_model}/random"), load_clip(f"{small_model}/random")
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.model.visual.proj, second.model.visual.proj)
    assert first.name == f"{small_model}/random"
    assert (first.depth, first.text_depth, first.dim, first.width, first.text_width) == (2, 1, 16, 32, 32)
    assert (first.patch_size, first.image_size) == (8, 32)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_local_checkpoint(suffix: str, small_model: str, tmp_path: Path) -> None:
    wanted = load_clip(f"{small_model}/random")
    state = {key: value.clone() + 1 for key, value in wanted.model.state_dict().items()}
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    loaded = load_clip(f"{small_model}/{path}")
    assert torch.equal(loaded.model.visual.proj, wanted.model.visual.proj + 1)
    rest = {name: value for name, value in loaded.model.named_parameters() if name != "visual.proj"}
    assert len(rest) == len(state) - 1
    assert all(torch.equal(value, state[name]) for name, value in rest.items())  # nothing was left unfilled
    assert torch.equal(loaded.model.attn_mask, wanted.model.attn_mask)
    assert cached_weights(f"{small_model}/{path}") == path


def test_no_weights_are_drawn_where_a_file_gives_them(small_model: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_file(load_clip(f"{small_model}/random").model.state_dict(), path)
    drawn: list[str] = []

    class Draws(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            drawn.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Draws():
        load_clip(f"{small_model}/{path}")
    assert "copy_" in drawn
    assert not {"normal_", "uniform_"} & set(drawn)


def test_checkpoint_of_another_shape_is_refused_by_name(small_model: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"visual.proj": torch.zeros(3, 3)}, path)
    with pytest.raises(ValueError, match=r"other.safetensors' does not hold weights of zsad-test-small"):
        load_clip(f"{small_model}/{path}")


def test_pickled_code_is_never_run(small_model: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    torch.save({"visual.proj": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="does not hold weights"):
        load_clip(f"{small_model}/{tmp_path / 'evil.pt'}")
    assert not marker.exists()


def test_activation_mismatch_raises_and_names_both_ways_out() -> None:
    with pytest.raises(ActivationMismatchError, match=r"'ViT-L-14-336-quickgelu/openai'.*activation='gelu'"):
        load_clip("ViT-L-14-336/openai")


@pytest.mark.parametrize(
    ("activation", "expected"), [("gelu", torch.nn.GELU), ("quick_gelu", open_clip.transformer.QuickGELU)]
)
def test_activation_by_name(activation: Any, expected: type, small_model: str) -> None:
    clip = load_clip(f"{small_model}/random", activation=activation)
    assert isinstance(clip.model.visual.transformer.resblocks[0].mlp.gelu, expected)
    assert isinstance(clip.model.transformer.resblocks[0].mlp.gelu, expected)


@pytest.mark.parametrize("name", ["nonsense", "ViT-B-32", "nonsense/openai"])
def test_unknown_backbone_shows_examples(name: str) -> None:
    with pytest.raises(ValueError, match=rf"Unknown backbone '{name}'.*ViT-B-16-plus-240/laion400m_e32"):
        load_clip(name)


def test_unknown_tag_lists_the_known_ones() -> None:
    with pytest.raises(WeightsError, match=r"'no_such_tag' is neither a file nor a pretrained tag.*laion400m_e32"):
        load_clip("ViT-B-16-plus-240/no_such_tag")


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_no_network_is_one_clear_error(quick_gelu: bool, small_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"url": "https://no-such-host.invalid/weights.pt", "quick_gelu": quick_gelu}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, small_model, {"tag": source})
    monkeypatch.setattr("zsad.clip.loading.getproxies", dict)
    if quick_gelu:
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS[small_model], "quick_gelu", True)
    with pytest.raises(
        WeightsError,
        match=rf"Weights 'tag' of {small_model} are not in the cache \(.*no-such-host.invalid cannot be resolved"
        rf".*backbone='{small_model}/<file>'",
    ):
        load_clip(f"{small_model}/tag")


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "ZSAD_OFFLINE"])
def test_offline_mode_opens_no_connection_and_names_three_ways_out(
    variable: str, small_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, small_model, {"tag": {"url": "https://localhost/weights.pt"}})
    monkeypatch.setenv(variable, "1")

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket", forbidden)
    monkeypatch.setattr("socket.getaddrinfo", forbidden)
    with pytest.raises(
        WeightsError,
        match=rf"offline mode is on, {variable}\)\. Three ways out: connect to the network once; or copy .*"
        rf"backbone='{small_model}/<file>'; or, for a trial on synthetic images, .*--backbone zsad-mini-2\)\.",
    ):
        load_clip(f"{small_model}/tag")


def test_what_ships_with_the_package_is_known_by_name_alone() -> None:
    assert load_clip("zsad-mini-2").embedded
    own = Clip(load_clip("zsad-mini").model, "mine")
    assert not own.embedded, "its licence is not ours to say"
