"""The command: arguments, the story, the table of all methods, and the page that holds both."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from zsad.cli.arguments import Parser
from zsad.cli.demo import comparison, product
from zsad.cli.demo.scoring import rows_of, run
from zsad.cli.demo.steps import steps
from zsad.cli.demo.story import tell
from zsad.cli.demo.tables import plain, show
from zsad.cli.demo.training import train
from zsad.clip import load_clip
from zsad.clip.embedded import MINI
from zsad.inference import find_device
from zsad.report import page
from zsad.synthetic import split_samples

NOTE = (
    "synthetic, mini CLIP: generated pictures, and a small model trained on pictures of the same generator. "
    "It shows that the machinery works; it says nothing about real images and does not rank the methods."
)


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0."""
    parser = Parser(
        "zsad demo",
        "Take a generated product that the embedded mini CLIP never saw through six steps, from good parts to the "
        "line; then run all training-free methods on a benchmark of such classes and defects. One HTML page.",
        epilog=NOTE,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("zsad-demo"), metavar="DIR", help="(default: %(default)s)")
    add("--images", type=int, default=200, metavar="N", help="test pictures of the table (default: %(default)s)")
    add("--seed", type=int, default=0, help="another one gives other pictures (default: %(default)s)")
    add("--device", default="auto", help="'auto', 'cpu', 'cuda:0', 'mps' (default: %(default)s)")
    add("--quick", action="store_true", help="the table of all methods alone")
    add("--train", action="store_true", help="train the methods that learn as well; takes minutes")
    add("--json", action="store_true", help="print the numbers as one JSON object, not as tables")
    args = parser.parse_args(arguments)
    console = Console(stderr=args.json)
    start = time.perf_counter()
    console.print(f"[bold]{NOTE}[/bold]")
    parts = [page.paragraph(NOTE, "note")]
    if not args.quick:
        drawn = product.draw(args.out / "product", args.seed)
        parts += tell(steps(drawn, MINI, args.device), console)
    device = find_device(args.device)
    clip = load_clip(MINI).to(device)
    samples = split_samples("held-out both", args.images, args.seed)
    methods = {name: method.to(device) for name, method in rows_of(clip).items()}
    if args.train:
        methods |= {name: model.to(device) for name, model in train(clip, args.out, args.seed, console).items()}
    with console.status("") as status:
        outcomes = run(methods, samples, lambda name: status.update(f"running {name}"))
        status.update("writing pictures")
        parts += comparison.parts(args.out, outcomes, samples)
    target = args.out / "index.html"
    target.write_text(page.page("zsad demo", parts), encoding="utf-8")
    if args.json:
        print(json.dumps({"note": NOTE, "page": str(target), "methods": plain(outcomes)}))
    else:
        show(outcomes, console)
    console.print(f"{args.images} pictures, {time.perf_counter() - start:.0f} s. Look at it: {target}", soft_wrap=True)
    return 0
