"""A net and data small enough for a minute on a laptop: the demo and every `--smoke`."""

from pathlib import Path
from typing import Literal

from hrnet_ray.cli.prepare import Synthetic, run as prepare_data
from hrnet_ray.config import Cluster, Experiment, ModelConfig, override

SMALL_NET = ModelConfig(width=16, modules=(1, 1, 1), blocks=2, stem=32)


def smoke(
    experiment: Experiment, cluster: Cluster, *, kind: Literal["tigers", "people"]
) -> Experiment:
    """The same experiment on a few drawn pictures, with a small net: does everything still work?

    The figures mean nothing. Data are drawn into `cluster.storage` once.
    """
    root = Path(cluster.storage).absolute() / "smoke-data" / kind
    if not (root / "manifest.json").is_file():
        prepare_data(Synthetic(kind=kind, train=48, val=12, out=root, name=kind, canvas=128))
    height, width = experiment.data.input_hw
    changes = {
        "name": f"{experiment.name}-smoke",
        "data.root": str(root),
        "data.input_hw": (64, 64) if height == width else (64, 96),
        "model": SMALL_NET,
        "optim.epochs": 2,
        "optim.batch_size": 8,
        "optim.milestones": (1,),
        "evaluation.every": 1,
    }
    return override(experiment, changes)
