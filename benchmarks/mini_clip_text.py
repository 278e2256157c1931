"""The model, and phase 0 of its pretraining: the text tower learns designed directions and is frozen then."""

import math
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from benchmarks.mini_clip_captions import (
    Caption,
    CaptionWriter,
    Pair,
    compact,
    forget_placeholders,
    targets,
)
from benchmarks.mini_clip_pictures import PATCH, SIZE
from rich.console import Console
from torch import Tensor, nn

from zsad.synthetic import SEEN_CLASSES, SEEN_DEFECTS

WIDTH, DIM = 128, 128
CONSOLE = Console(width=150)
CONFIG: dict[str, Any] = {
    "embed_dim": DIM,
    "vision_cfg": {"image_size": SIZE, "patch_size": PATCH, "width": WIDTH, "layers": 4, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": 4, "layers": 3},
    "quick_gelu": False,
}


def build(vocabulary_size: int, patch: int = PATCH) -> Any:
    """Return open_clip's own model with a compact token table."""
    text = {**CONFIG["text_cfg"], "vocab_size": vocabulary_size}
    return open_clip.CLIP(DIM, {**CONFIG["vision_cfg"], "patch_size": patch}, text, quick_gelu=False)


def encode_text(model: Any, rows: Tensor) -> Tensor:
    """Return text features (texts, dim), not normalised, of rows cut to any length (causal: exact)."""
    length = rows.shape[1]
    x = model.token_embedding(rows) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(rows)), rows.argmax(-1)] @ model.text_projection


def train_text(model: Any, token_ids: Tensor, seed: int, steps: int) -> None:
    """Phase 0: pull each caption's feature to its designed direction."""
    rng = np.random.default_rng(seed)
    writer = CaptionWriter(rng)
    kinds = [*SEEN_CLASSES, *["general"] * 5, *["texture"] * 3, *["unknown"] * 8]
    visual = {id(p) for p in model.visual.parameters()}
    parameters = [p for p in model.parameters() if id(p) not in visual]
    optimizer = torch.optim.AdamW(parameters, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        captions: list[Caption] = []
        for _ in range(48):
            kind, chance = str(rng.choice(kinds)), rng.random()
            pair = writer.pair(kind, str(rng.choice(list(SEEN_DEFECTS))) if chance < 0.3 else "")
            captions += [pair.normal, writer.neutral(kind) if chance > 0.9 else pair.abnormal]
        rows = forget_placeholders(compact([c.text for c in captions], token_ids), token_ids, rng)
        loss = 1 - F.cosine_similarity(encode_text(model, rows), targets(captions, DIM, seed)).mean()
        optimizer.param_groups[0]["lr"] = 1.5e-3 * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            CONSOLE.log(f"text step {step}: loss {loss.item():.4f}")


class CaptionTable:
    """Features of many caption pairs by what they say, computed once with the frozen text tower.

    Args:
        model: The model after phase 0.
        token_ids: Its vocabulary.
        seed: Seed of the captions.
    """

    def __init__(self, model: nn.Module, token_ids: Tensor, seed: int) -> None:
        rng = np.random.default_rng((seed, 1))
        writer = CaptionWriter(rng)
        pairs: list[Pair] = []
        self.groups: dict[tuple[str, str], range] = {}
        for kind in [*SEEN_CLASSES, "general", "texture", "unknown"]:
            for defect in ["", *SEEN_DEFECTS]:
                many = kind in ("general", "texture", "unknown")
                count = (60 if many else 30) if not defect else 4 if many else 2
                self.groups[kind, defect] = range(len(pairs), len(pairs) + count)
                pairs += [writer.pair(kind, defect) for _ in range(count)]
        neutral = [writer.neutral(kind) for kind in [*SEEN_CLASSES, "general", "unknown"] for _ in range(4)]
        self.neutral = len(neutral)
        captions = [p.normal for p in pairs] + [p.abnormal for p in pairs] + neutral
        self.pairs = len(pairs)
        self.facts = torch.tensor([[c.noun, c.state, c.defect] for c in captions])
        features = []
        with torch.no_grad():
            for start in range(0, len(captions), 128):
                rows = compact([c.text for c in captions[start : start + 128]], token_ids)
                features.append(F.normalize(encode_text(model, forget_placeholders(rows, token_ids, rng)), dim=-1))
        self.features = torch.cat(features)

    def choose(self, facts: Tensor, rng: np.random.Generator) -> Tensor:
        """Return one pair number per picture; 30% of the defective pictures get a pair that names the defect."""
        chosen = []
        for number, _, defect, texture in facts.tolist():
            chance = rng.random()
            kind = SEEN_CLASSES[number] if chance < 0.55 else "unknown" if chance > 0.8 else "general"
            if kind == "general" and texture and rng.random() < 0.4:
                kind = "texture"
            named = list(SEEN_DEFECTS)[defect] if defect >= 0 and rng.random() < 0.3 else ""
            group = self.groups[kind, named]
            chosen.append(group[rng.integers(len(group))])
        return torch.tensor(chosen)
