"""The picture at the top of the README, from a run of ``zsad demo``.

Run ``python -m benchmarks.demo_picture zsad-demo docs/images/demo.png`` after ``zsad demo --quick``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROWS = ("image", "CLIP", "WinCLIP", "MuSc", "AnoVL")
SIDE, GAP, MARGIN = 144, 4, 92


def sheet(folder: Path, rows: Sequence[str], columns: int) -> Image.Image:
    """Return a sheet with a row for each method and a column for each of the first pictures.

    Args:
        folder: What ``zsad demo`` wrote.
        rows: Folders below ``heatmaps``.
        columns: How many pictures.
    """
    names = sorted(path.name for path in (folder / "heatmaps" / rows[0]).iterdir())
    normal = [name for name in names if name.endswith("_normal.png")]
    names = [*[name for name in names if name not in normal][: columns - 1], *normal[:1]]
    made = Image.new("RGB", (MARGIN + len(names) * (SIDE + GAP), len(rows) * (SIDE + GAP)), "white")
    pen, font = ImageDraw.Draw(made), ImageFont.load_default(12)
    for row, kind in enumerate(rows):
        top = row * (SIDE + GAP)
        label = "image, defect" if kind == "image" else kind
        pen.text((6, top + SIDE // 2), label, fill="black", font=font, anchor="lm")
        for column, name in enumerate(names):
            picture = Image.open(folder / "heatmaps" / kind / name).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            made.paste(picture, (MARGIN + column * (SIDE + GAP), top))
    return made


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what zsad demo wrote")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", nargs="+", default=ROWS)
    parser.add_argument("--columns", type=int, default=9)
    args = parser.parse_args()
    picture = sheet(args.folder, args.rows, args.columns)
    picture.quantize(256, dither=Image.Dither.NONE).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
