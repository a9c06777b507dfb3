"""A study on a Ray of its own, in which each picture that any process decodes is counted.

    python tests/chaos/counting.py COUNTS ROOT STORAGE TRIALS

Each process adds a line to a file of its own in COUNTS per picture: the sha256 of its bytes.
"""

import os
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import ray

from hrnet_ray.config import Cluster, Experiment, override
from hrnet_ray.distributed.cluster.resources import SETTINGS
from hrnet_ray.distributed.tuning.search_space import parse_space
from hrnet_ray.distributed.tuning.tune import Search, sweep

TINY = {
    "name": "counted",
    "data.input_hw": (32, 64),
    "model.width": 4,
    "model.modules": (1, 1, 1),
    "model.blocks": 1,
    "model.stem": 8,
    "heatmap.sigma": 1.0,
    "optim.epochs": 2,
    "optim.milestones": (1,),
    "optim.batch_size": 4,
    "evaluation.batch_size": 4,
}


def count_decoding() -> None:
    """Let this process count what it decodes from now on."""
    from hrnet_ray.data.images import codec

    folder, decode = os.environ["COUNTS"], codec.decode

    def counted(data: bytes) -> Any:
        with (Path(folder) / str(os.getpid())).open("a", encoding="utf-8") as file:
            file.write(sha256(data).hexdigest() + "\n")
        return decode(data)

    codec.decode = counted


def main(counts: str, root: str, storage: str, trials: str) -> None:
    """Run the study; every worker process counts from its start."""
    os.environ |= SETTINGS | {"COUNTS": counts}
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=True,
        object_store_memory=200 * 2**20,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": count_decoding},
    )
    count_decoding()
    experiment = override(Experiment(), TINY | {"data.root": root})
    cluster = Cluster(workers=1, device="cpu", storage=storage)
    space = parse_space(["optim.lr=log(1e-4,1e-2)"])
    sweep(experiment, space, cluster, Search(trials=int(trials), at_once=2, scheduler="none"))


if __name__ == "__main__":
    main(*sys.argv[1:])
