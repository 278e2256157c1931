"""A program: score a list on two machines, of which one is taken away when the first rows are durable."""

import json
import sys
import threading
import time
from pathlib import Path

from zsad import load_model
from zsad.scale import Cluster, score
from zsad.scale.cluster import require_ray


def main(images: str, out: str) -> None:
    """Print what the second machine had of the job, and what became of it."""
    ray = require_ray()
    from ray.cluster_utils import Cluster as Machines

    machines = Machines(
        initialize_head=True,
        head_node_args={"num_cpus": 5, "object_store_memory": 100 * 2**20, "include_dashboard": False},
    )
    second = machines.add_node(num_cpus=4, object_store_memory=100 * 2**20)
    ray.init(address=machines.address, log_to_driver=False)
    used = {}

    def take_away() -> None:
        while not any(Path(out, "checkpoint").glob("*.parquet")):
            time.sleep(0.05)
        left = ray._private.state.available_resources_per_node()
        used["cpus"] = 4 - left[second.node_id].get("CPU", 0)
        machines.remove_node(second, allow_graceful=False)
        used["gone"] = True

    thread = threading.Thread(target=take_away, daemon=True)
    thread.start()
    model = load_model("winclip", "zsad-mini", device="cpu", batch_size=3)
    done = score(images, out, model, "coin", cluster=Cluster(workers=3), overlays=False, block=6)
    print(json.dumps({**used, "rows": done.rows, "errors": done.errors}))
    ray.shutdown()
    machines.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
