"""The table itself, names, and what a bare name means."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.served import Published
from zsad.datamodules.facts import all_facts
from zsad.methods import METHODS
from zsad.methods.author_files import READERS
from zsad.weights import NotPublishedError, UnknownAdaptersError, list_weights
from zsad.weights.registry import default_for, find, named


def test_every_published_address_is_pinned_and_every_row_is_whole() -> None:
    entries = list_weights()
    assert len({one.name for one in entries}) == len(entries)
    for one in entries:
        assert re.fullmatch(r"[a-z_+0-9]+(/[a-z_+0-9]+)*", one.name)
        assert one.status in ("ready", "reader", "manual", "none", "other")
        assert bool(one.files) == (one.status != "none")
        for file in one.files:
            if one.status in ("ready", "reader", "other"):
                pinned = re.search(r"/[0-9a-f]{40}/", file.url) is not None
                assert pinned or file.expected.sha256 is not None, one.name
                assert file.expected or one.status == "reader", one.name
                assert file.url.startswith("https://")
        assert set(one.trained_on) <= set(all_facts()), one.name
        assert one.trained_on or one.status == "none"
        assert one.data_licence or one.status == "none"
        if one.status == "ready":
            assert one.layout in READERS
            assert METHODS[one.key].__name__ == one.method
            assert METHODS[one.key].published_backbone == one.backbone
            assert all(file.expected for file in one.files)


def test_lfs_files_have_the_address_of_their_content() -> None:
    files = [file for one in list_weights("visualad") for file in one.files]
    assert files
    assert all(file.url.startswith("https://media.githubusercontent.com/media/") for file in files)


def test_the_licence_of_the_data_decides_about_commerce() -> None:
    by_name = {one.name: one for one in list_weights()}
    assert by_name["anomalyclip/visa"].commercial == "yes"
    assert by_name["anomalyclip/mvtec_ad"].commercial == "no"
    assert {one.commercial for one in list_weights("adaclip")} == {"no"}
    assert by_name["visualad/visa"].commercial == "ask"  # no licence file
    assert by_name["anomalyclip/visa"].data_licence == all_facts()["visa"].license
    assert by_name["anomalyclip/mvtec_ad"].data_licence == all_facts()["mvtec_ad"].license


def test_list_of_one_method() -> None:
    assert [one.name for one in list_weights("AnomalyCLIP")] == ["anomalyclip/visa", "anomalyclip/mvtec_ad"]
    with pytest.raises(UnknownAdaptersError, match=r"no method 'nothing'\. There are: anomalyclip, vand"):
        list_weights("nothing")


def test_unknown_names() -> None:
    with pytest.raises(UnknownAdaptersError) as caught:
        find("anomalyclip/btad")
    assert str(caught.value) == (
        "No adapters 'anomalyclip/btad'. There are: anomalyclip/mvtec_ad, anomalyclip/visa ('zsad weights list')."
    )
    with pytest.raises(UnknownAdaptersError, match=r"No adapters 'x/y'\. There are: adaclip/all, .*, visualad/visa \("):
        find("x/y")
    with pytest.raises(NotPublishedError, match="No adapters of AACLIP are published: repository 53db"):
        find("aaclip/visa")


def test_a_checkpoint_is_a_name_only_if_it_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("visa", "anomalyclip/visa", "AnomalyCLIP/VisA"):
        found = named("anomalyclip", text)
        assert found is not None
        assert found.name == "anomalyclip/visa"
    assert named("anomalyclip", "runs/visa.ckpt") is None
    assert named("anomalyclip", "gone.safetensors") is None
    assert named("coop", "visa") is None  # nothing of CoOp is published: a path, then
    with pytest.raises(UnknownAdaptersError, match="No adapters 'anomalyclip/btad'"):
        named("anomalyclip", "btad")
    (tmp_path / "visa").touch()
    assert named("anomalyclip", "visa") is None


@pytest.mark.parametrize(
    ("target", "expected"),
    [(None, "visa"), ("mvtec_ad", "visa"), ("visa", "mvtec_ad"), ("btad", "mvtec_ad"), ("br35h", "mvtec_ad")],
)
def test_what_a_bare_name_means(target: str | None, expected: str) -> None:
    for method in ("anomalyclip", "vand"):
        entry = default_for(method, target)
        assert entry is not None
        assert entry.name == f"{method}/{expected}"
    assert default_for("aaclip", target) is None


def test_never_the_target_itself(published: Published) -> None:
    both = {"names": ["mvtec_ad", "visa"], "split": "test"}
    published.publish("anomalyclip/mvtec_ad+visa", b"x", trained_on=both)
    assert default_for("anomalyclip", "visa") is None
    assert default_for("anomalyclip", "mvtec_ad") is None
    assert default_for("anomalyclip") == default_for("anomalyclip", "btad") == find("anomalyclip/mvtec_ad+visa")
    published.publish("anomalyclip/visa", b"y")
    assert default_for("anomalyclip", "mvtec_ad") == default_for("anomalyclip") == find("anomalyclip/visa")
    assert default_for("anomalyclip", "visa") is None
