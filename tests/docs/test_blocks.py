"""Every bash and Python block of the documentation runs, or says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from tests.docs.blocks import PAGES, ROOT, blocks_of, commands_of, run_command, stand_in

WITH_BLOCKS = [page for page in PAGES if any(blocks_of(page.read_text(encoding="utf-8")))]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_of(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch)
    mpl.use("agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.reason is not None:
            assert len(block.reason) > 10, f"line {block.line}: a block that is not run needs a reason"
            continue
        if block.setup:
            exec(compile(block.setup, f"{page.name}, setup before line {block.line}", "exec"), names)
        if block.language == "python":
            exec(compile("\n" * block.line + block.code, str(page), "exec"), names)
        else:
            for words in commands_of(block.code):
                run_command(words, tmp_path)


def test_no_block_scores_a_photo_with_the_synthetic_model() -> None:
    for page in PAGES:
        for block in blocks_of(page.read_text(encoding="utf-8")):
            scores = "photo" in block.code and ("predict" in block.code or "zsad score" in block.code)
            assert not (scores and "zsad-mini" in block.code), f"{page}, line {block.line}"


def test_a_block_that_fails_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "<!-- not run: no network here at all -->\n```bash\nfalse\n```\n\n```python\n1 / 0\n```\n"
    left_out, broken = blocks_of(text)
    assert left_out.reason == "no network here at all"
    with pytest.raises(ZeroDivisionError):
        exec(broken.code)
    with pytest.raises(AssertionError, match="no command of ours"):
        run_command(["rm", "-r"], tmp_path)
