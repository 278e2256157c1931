r"""What half precision changes and what it costs: scores, maps and time of every method, in one run.

    OMP_NUM_THREADS=1 python benchmarks/precision.py --backbone ViT-B-16-plus-240/random --batch-size 2 --rounds 5
    OMP_NUM_THREADS=1 python benchmarks/precision.py --backbone ViT-L-14-336/random --image-size 518 --only-half \
        --methods anomalyclip aaclip

Two copies of one backbone, one of them rounded; the same images and the same parameters. Times are the minima of
interleaved rounds, in CPU seconds of one thread, divided by those of open_clip's own float32 tower in the same run.
"""

import copy
import json
import sys
import warnings
from typing import Any

import torch
from benchmarks.throughput import BARE, Run, bare_tower, common_options, seconds
from rich.console import Console
from rich.table import Table
from torch import Tensor

from zsad.benchmark.grid import MethodSpec
from zsad.clip import Clip, load_clip
from zsad.methods.musc import Transductive


def made(name: str, clip: Clip, image: Tensor) -> tuple[Any, Run]:
    """A method on a backbone, and its prediction of the images."""
    spec = MethodSpec.parse(name)
    kind: Any = spec.kind
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(clip, image_size=image.shape[-1], **spec.options).eval()
    names, paths = ["bottle"] * len(image), [f"{index}.png" for index in range(len(image))]
    if isinstance(model, Transductive):
        model.fit_panel("bottle", torch.randn(4, *image.shape[1:], generator=torch.Generator().manual_seed(1)))
    return model, lambda: model(image, names, paths)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table and write JSON if asked."""
    parser = common_options(__doc__)
    parser.add_argument("--only-half", action="store_true", help="no float32: ratios, no deviations")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")  # trained methods say that they are not
    whole = load_clip(options.backbone, "bilinear")
    half = copy.deepcopy(whole).cast("bf16")
    side = options.image_size or whole.image_size
    image = torch.randn(options.batch_size, 3, side, side, generator=torch.Generator().manual_seed(0))
    rows: list[dict[str, Any]] = []
    device = torch.device("cpu")
    with torch.inference_mode():
        bare = bare_tower(whole, image)
        bare()
        for name in options.methods:
            runs: dict[str, Run] = {BARE: bare, "bf16": made(name, half, image)[1]}
            if not options.only_half:
                runs["32"] = made(name, whole, image)[1]
            found = {kind: run() for kind, run in runs.items() if kind != BARE}
            best = {kind: float("inf") for kind in runs}
            for _ in range(options.rounds):
                for kind, run in runs.items():
                    best[kind] = min(best[kind], seconds(run, device)[0])
            row: dict[str, Any] = {"name": name, "seconds": best}
            row["bf16_to_tower"] = best["bf16"] / best[BARE]
            if "32" in found:
                row["bf16_to_32"] = best["bf16"] / best["32"]
                for what in ("pred_score", "anomaly_map"):
                    one, other = (getattr(found[kind], what).float() for kind in ("32", "bf16"))
                    row[what] = float((one - other).abs().max())
                    row[f"{what}_range"] = [float(one.min()), float(one.max())]
            rows.append(row)
            print(json.dumps(row), flush=True)
    table = Table("method", "score", "map", "bf16 / 32", "bf16 / open_clip 32", title=f"{whole.name}, {side} px")
    for row in rows:
        cells = [f"{row[what]:.2g}" if what in row else "-" for what in ("pred_score", "anomaly_map", "bf16_to_32")]
        table.add_row(row["name"], *cells, f"{row['bf16_to_tower']:.2f}")
    Console().print(table)
    if options.json:
        where = {"backbone": whole.name, "image_size": side, "batch_size": options.batch_size, "rounds": options.rounds}
        threads = torch.get_num_threads()
        options.json.write_text(json.dumps({**where, "threads": threads, "torch": torch.__version__, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
