"""Run methods on data sets, class by class, and write one JSON file per cell.

Started again, it goes on where it stopped. 'zsad report DIR' makes tables of the files.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from zsad.benchmark.grid import Cell, DataSpec, MethodSpec
from zsad.benchmark.results import read_cell
from zsad.benchmark.run import Options, Runner, cells_of, is_done
from zsad.cli.arguments import Parser
from zsad.cli.cluster_options import add_cluster_options, check_grid, chosen_cluster
from zsad.cli.interrupt import signals_interrupt
from zsad.methods import list_methods
from zsad.weights.lock import locked

_SHARE = "ZSAD_BENCHMARK_SHARE"  # "index/number" of a process of --jobs


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``zsad benchmark``."""
    result = Parser("zsad benchmark", __doc__)
    result.add_argument(
        "--methods", nargs="+", default=["all"], metavar="METHOD",
        help="names, name:option=value,..., YAML configurations or files of rows, or 'all' (default)",
    )  # fmt: skip
    result.add_argument(
        "--data", nargs="+", required=True, metavar="DATA",
        help="Synthetic, MVTecAD=ROOT, Name:option=value,..., or YAML configurations",
    )  # fmt: skip
    result.add_argument("--backbone", help="in place of each method's published one, e.g. zsad-mini-2")
    result.add_argument(
        "--train",
        nargs="+",
        default=[],
        metavar="DATA",
        help="auxiliary data for trained methods; the first that is not the target is used, A=ROOT+B=ROOT as one",
    )
    result.add_argument("--epochs", type=int, help="in place of each trained method's published number")
    result.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="(default: 0)")
    result.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="(default: %(default)s)")
    result.add_argument("--device", default="auto", help="'auto', 'cpu', 'cuda:0' (default: %(default)s)")
    result.add_argument(
        "--precision",
        choices=("32", "bf16", "fp16"),
        default="32",
        help="of the backbone's blocks (default: %(default)s)",
    )
    result.add_argument(
        "--mode", choices=("binned", "exact"), default="binned", help="of the pixel metrics (default: %(default)s)"
    )
    result.add_argument(
        "--bootstrap", type=int, default=0, metavar="N", help="resampled sets of images for confidence intervals"
    )
    result.add_argument("--batch-size", type=int, default=8, metavar="N", help="(default: %(default)s)")
    result.add_argument(
        "--num-workers", type=int, default=0, metavar="N", help="loader processes (default: %(default)s)"
    )
    result.add_argument("--jobs", type=int, default=1, metavar="N", help="processes, one per GPU if there are GPUs")
    add_cluster_options(result)
    result.add_argument(
        "--fuse",
        action="store_true",
        help="AA-CLIP's evaluation rule for image scores, over each class's whole test set",
    )
    result.add_argument(
        "--fresh", action="store_true", help="compute all cells of the grid again, whatever is in DIR from earlier runs"
    )
    result.add_argument("--json", action="store_true", help="print what became of each cell as one JSON list")
    result.add_argument("--retry-failed", action="store_true", help="compute cells again that ended in an error")
    return result


def main(arguments: Sequence[str]) -> int:
    """Run the grid; return 1 if a cell failed.

    Raises:
        LockedError: Another benchmark is writing to the folder.
        StaleCellError: A result in the folder was made from something else.
        KeyboardInterrupt: Ctrl-C, or the process was told to end.
    """
    args = parser().parse_args(arguments)
    check_grid(args)
    if os.environ.get(_SHARE):
        _end_with_parent()
        return _run(arguments, args)
    with signals_interrupt(), locked(args.out, "zsad benchmark"):
        return _run(arguments, args)


def _run(arguments: Sequence[str], args: argparse.Namespace) -> int:
    names = [name for entry in args.methods for name in (list_methods() if entry == "all" else [entry])]
    methods = [spec for name in names for spec in MethodSpec.parse_all(name)]
    options = Options(
        out=args.out,
        backbone=args.backbone,
        train=[DataSpec.parse(text) for text in args.train],
        epochs=args.epochs,
        device=args.device,
        precision=args.precision,
        mode=args.mode,
        bootstrap=args.bootstrap,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        retry_failed=args.retry_failed,
        fuse=args.fuse,
    )
    cells = cells_of(methods, [DataSpec.parse(text) for text in args.data], args.seeds)
    console = Console(stderr=True)
    if share := os.environ.get(_SHARE):
        index, number = map(int, share.split("/"))
        mine = set(list(dict.fromkeys((cell.method.label, cell.seed) for cell in cells))[index::number])
        Runner(options).run([cell for cell in cells if (cell.method.label, cell.seed) in mine])
        return 0
    Runner(options).check([] if args.fresh else cells)
    if args.fresh:
        for cell in cells:
            cell.path(args.out).unlink(missing_ok=True)
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("cells", total=len(cells))
        if args.engine == "ray":
            from zsad.scale.grid import run_grid

            run_grid(cells, options, chosen_cluster(args), lambda done: progress.update(task, completed=done))
        elif args.jobs > 1:
            _parallel(arguments, args, cells, options, lambda done: progress.update(task, completed=done))
        else:

            def tell(cell: Cell, outcome: str) -> None:
                progress.update(task, advance=1, description=f"{cell.method.label} on {cell.class_name}")
                if outcome not in ("done", "kept"):
                    console.print(
                        f"[red]{cell.method.label}, {cell.data.label}, {cell.class_name}[/red]: {outcome}",
                        soft_wrap=True,
                    )

            Runner(options).run(cells, tell)
    contents = [(cell, read_cell(cell.path(args.out))) for cell in cells]
    failed = [cell for cell, content in contents if "error" in content]
    if args.json:
        print(json.dumps([_plain(cell, content, args.out) for cell, content in contents]))
    console.print(
        f"{len(cells) - len(failed)} cells done, {len(failed)} failed. Tables: zsad report {args.out}", soft_wrap=True
    )
    return 1 if failed else 0


def _plain(cell: Cell, content: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Return what became of a cell, ready for JSON: its metrics in [0, 1], or its error."""
    names = {"method": cell.method.label, "data": cell.data.label, "class_name": cell.class_name, "seed": cell.seed}
    found = {"metrics": content.get("metrics"), "error": content.get("error")}
    return names | found | {"file": str(cell.path(out))}


def _parallel(
    arguments: Sequence[str], args: argparse.Namespace, cells: Sequence[Cell], options: Options, tell: Any
) -> None:
    """Run shares of the grid in processes of their own; a method and seed is one process's, so it trains once."""
    import torch

    gpus = torch.cuda.device_count()
    workers = []
    for index in range(args.jobs):
        own = {**os.environ, _SHARE: f"{index}/{args.jobs}"}
        if gpus:
            own["CUDA_VISIBLE_DEVICES"] = str(index % gpus)
        else:
            own["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // args.jobs))
        code = "import sys; from zsad.cli.main import main; sys.exit(main(['benchmark', *sys.argv[1:]]))"
        # the pipe is never written to: its end is how a worker knows that its parent is gone, however it ended
        workers.append(subprocess.Popen([sys.executable, "-c", code, *arguments], env=own, stdin=subprocess.PIPE))
    try:
        while any(worker.poll() is None for worker in workers):
            tell(sum(is_done(cell.path(args.out), options.retry_failed) for cell in cells))
            time.sleep(0.5)
        tell(sum(is_done(cell.path(args.out), options.retry_failed) for cell in cells))
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            try:
                worker.wait(timeout=5)
            except subprocess.TimeoutExpired:
                worker.kill()


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is gone; results are written whole, so nothing is lost."""

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock Python wants back when it ends
            pass
        os._exit(143)

    threading.Thread(target=watch, daemon=True).start()
