"""``--engine ray``: the options that say where a job runs, and what it leaves to ``zsad collect``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsad.scale import Cluster

_ALONE = ("relative", "fdr", "strict", "prune", "model", "slices", "watch", "on_anomaly")
_OF_RAY = ("address", "workers", "gpus_per_worker", "block")


def add_cluster_options(made: argparse.ArgumentParser) -> None:
    """Add engine, address and workers to a parser."""
    made.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="'ray': on many processes and machines (zsad[ray])"
    )
    made.add_argument("--address", help="with --engine ray: a cluster that runs, 'auto' or HOST:PORT; else Ray starts")
    made.add_argument("--workers", type=int, metavar="N", help="processes with a model (default: one per GPU, or CPU)")
    made.add_argument(
        "--gpus-per-worker", type=float, metavar="N", help="may be a fraction (default: 1 if there are any, else 0)"
    )


def folder_or_address(text: str) -> Path | str:
    """Return what ``--out`` means."""
    return text if "://" in text else Path(text)


def chosen_cluster(args: argparse.Namespace) -> "Cluster":
    """Return where the job runs.

    Raises:
        ValueError: A number is out of range.
    """
    from zsad.scale import Cluster

    return Cluster(args.address, args.workers, args.gpus_per_worker)


def check_grid(args: argparse.Namespace) -> None:
    """Refuse options of one engine beside the other, for a benchmark.

    Raises:
        ValueError: The message names them.
    """
    _check_local(args)
    if args.engine == "ray" and args.jobs > 1:
        raise ValueError(f"--jobs {args.jobs} is for one machine without Ray: give --workers {args.jobs} instead.")


def _check_local(args: argparse.Namespace) -> None:
    if args.engine == "local" and (given := [_option(one) for one in _OF_RAY if getattr(args, one, None) is not None]):
        raise ValueError(f"{', '.join(given)} is about --engine ray: add it, or leave that out.")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def check_engine(args: argparse.Namespace) -> None:
    """Refuse what an engine cannot do.

    Raises:
        ValueError: The message names the option and what does it instead.
    """
    _check_local(args)
    if args.engine == "local":
        if isinstance(args.out, str):
            raise ValueError(f"--out {args.out}: one machine writes into a folder; --engine ray writes to an address.")
        return
    if given := [_option(name) for name in _ALONE if getattr(args, name)]:
        raise ValueError(f"{', '.join(given)} needs the run of one machine: leave it out, or --engine ray.")
    if args.explain not in (None, "own"):
        raise ValueError(f"--explain {args.explain} needs the run of one machine: leave it out, or --engine ray.")
    if args.format == "parquet":
        raise ValueError("--engine ray writes Parquet anyway: scores/*.parquet; 'zsad collect' makes one file of them.")
