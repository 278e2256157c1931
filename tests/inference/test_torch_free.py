"""What a runtime without torch takes over: results, rows and cards need nothing but numpy and Pillow."""

import subprocess
import sys
from pathlib import Path

import numpy as np

import zsad
from zsad.decision import Card
from zsad.decision.entry import calibrate
from zsad.decision.rules import Rule

_ALONE = """
import sys, types

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "scipy", "skimage", "lightning", "open_clip", "typing_extensions"}:
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
source, card = sys.argv[1:]
for name in ("inference", "images"):  # without what else the wings hand on
    package = types.ModuleType(f"zsad.{name}")
    package.__path__ = [f"{source}/{name}"]
    sys.modules[f"zsad.{name}"] = package

import numpy as np
from PIL import Image
from zsad.decision.card import Card
from zsad.inference.result import Result
from zsad.inference.rows import Row

entry = Card.load(card).entry("nut")
picture = Image.new("RGB", (4, 3))
result = Result(0.95, np.zeros((3, 4), np.float32), picture, "nut", "a.png", source_size=(3, 4), calibration=entry)
print(Row.of(result).line(), end="")
"""


def test_rows_of_a_card_without_torch_and_scipy(tmp_path: Path) -> None:
    entry = calibrate(np.linspace(0, 1, 40), Rule("far", 0.05))
    card = Card({"method": "CLIP", "backbone": "zsad-mini"}, {}, {"nut": entry})
    path = card.save(tmp_path / "nut.card.json")
    source = str(Path(zsad.__file__).parent)
    command = [sys.executable, "-c", _ALONE, source, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    from zsad.inference.rows import Row

    row, said = Row.read(done.stdout), card.decide(0.95)
    assert (row.label, row.p_value, row.p_upper, row.alarm_rate) == said
