import re
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zsad.synthetic import HELD_OUT_CLASSES, HELD_OUT_DEFECTS, SEEN_CLASSES, SEEN_DEFECTS

HELD_OUT_NAMES = (*HELD_OUT_CLASSES, *HELD_OUT_DEFECTS)


def test_no_held_out_name_or_token_occurs_in_any_caption(captions: ModuleType) -> None:
    written = captions.__dict__["WORDS"]
    words = set(re.findall(r"[a-z]+", str(written).lower())) | set(" ".join(SEEN_CLASSES).split())
    assert not words & set(HELD_OUT_NAMES)
    known = set(captions.vocabulary().tolist()) - set(captions.SPECIAL_TOKENS)
    for name in HELD_OUT_NAMES:
        tokens = set(captions.TOKENIZER(name)[0].tolist()) - set(captions.SPECIAL_TOKENS)
        assert tokens
        assert not tokens & known


def test_vocabulary_covers_every_caption_that_is_drawn(captions: ModuleType) -> None:
    token_ids = captions.vocabulary()
    writer = captions.CaptionWriter(np.random.default_rng(0))
    for kind in (*SEEN_CLASSES, "general", "texture", "unknown"):
        for defect in ("", "misprint"):
            rows = captions.compact([caption.text for caption in writer.pair(kind, defect)], token_ids)
            assert (rows > 0).all()


def test_compact_rows_keep_the_end_token_largest_and_send_foreign_words_to_row_0(captions: ModuleType) -> None:
    token_ids = captions.vocabulary()
    rows = captions.compact(["a photo of a zebra", "wood"], token_ids)
    full = captions.TOKENIZER(["a photo of a zebra", "wood"])
    assert rows.argmax(-1).tolist() == full.argmax(-1).tolist()
    assert rows[0].tolist().count(0) == 1
    known = rows[rows > 0]
    assert torch.equal(token_ids[known - 1], full[:, : rows.shape[1]][rows > 0])


def test_both_captions_of_a_pair_differ_in_the_state_only(captions: ModuleType) -> None:
    writer = captions.CaptionWriter(np.random.default_rng(1))
    states = [*captions.WORDS["normal"], *captions.WORDS["abnormal"]]
    for _ in range(30):
        normal, abnormal = (
            {caption.text.replace(state.replace("{}", "brick"), "*") for state in states}
            for caption in writer.pair("brick")
        )
        assert normal & abnormal


def test_every_seen_defect_has_a_word(captions: ModuleType) -> None:
    assert set(captions.WORDS["defects"]) == set(SEEN_DEFECTS)


def test_targets_put_the_state_on_one_axis(captions: ModuleType) -> None:
    normal, abnormal = captions.NORMAL, captions.ABNORMAL
    rows = captions.targets(
        [
            captions.Caption("", captions.ANY, normal, -1),
            captions.Caption("", captions.ANY, abnormal, -1),
            captions.Caption("", 3, normal, -1),
            captions.Caption("", 3, abnormal, -1),
            captions.Caption("", 3, captions.NEUTRAL, -1),
            captions.Caption("", 4, captions.NEUTRAL, -1),
        ],
        dim=64,
        seed=0,
    )
    cosine = F.normalize(rows, dim=-1) @ F.normalize(rows, dim=-1).T
    assert cosine[0, 1] == pytest.approx(-1, abs=1e-5)
    assert cosine[2, 3] == pytest.approx(0, abs=1e-5)  # same class, opposite state, equal weights
    assert cosine[4, 5] == pytest.approx(0, abs=1e-5)
    assert cosine[2, 4] == pytest.approx(0.5**0.5, abs=1e-5)


def test_truth_table_by_hand(captions: ModuleType) -> None:
    any_noun, texture = captions.ANY, captions.ANY_TEXTURE
    statements = torch.tensor(
        [[any_noun, 0, -1], [any_noun, 1, -1], [texture, 1, -1], [2, 1, -1], [any_noun, 1, 5], [any_noun, -1, -1]]
    )
    pictures = torch.tensor([[2, 1, 5, 1], [20, 0, -1, 0]])  # a damaged texture of class 2, a normal object
    assert captions.truth(statements, pictures).tolist() == [
        [False, True, True, True, True, True],
        [True, False, False, False, False, True],
    ]
