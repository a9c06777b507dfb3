"""A study on a Ray cluster of its own that counts each decoded image.

    python tests/chaos/counting.py COUNTS ROOT STORAGE TRIALS

Each process appends a line per image to a file of its own in COUNTS: the SHA-256 of its bytes.
"""

import os
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import ray

from hrnet_ray.config import ClusterConfig, ExperimentConfig, with_overrides
from hrnet_ray.distributed.cluster.resources import RAY_ENV_DEFAULTS
from hrnet_ray.distributed.tuning.search_space import parse_search_space
from hrnet_ray.distributed.tuning.tune import SearchConfig, run_study

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
    """Count the images that this process decodes from now on."""
    from hrnet_ray.data.images import codec

    folder, decode = os.environ["COUNTS"], codec.decode_image

    def decode_and_count(data: bytes) -> Any:
        with (Path(folder) / str(os.getpid())).open("a", encoding="utf-8") as file:
            file.write(sha256(data).hexdigest() + "\n")
        return decode(data)

    codec.decode_image = decode_and_count


def main(counts: str, root: str, storage: str, trials: str) -> None:
    """Run the study; every worker process counts from its start."""
    os.environ |= RAY_ENV_DEFAULTS | {"COUNTS": counts}
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=True,
        object_store_memory=200 * 2**20,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": count_decoding},
    )
    count_decoding()
    experiment = with_overrides(ExperimentConfig(), TINY | {"data.root": root})
    cluster = ClusterConfig(num_workers=1, device="cpu", storage_path=storage)
    space = parse_search_space(["optim.lr=log(1e-4,1e-2)"])
    run_study(
        experiment,
        space,
        cluster,
        SearchConfig(num_trials=int(trials), max_concurrent_trials=2, scheduler="none"),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
