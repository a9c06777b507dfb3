"""Workers are killed without a word, wherever they are; the run ends as if nothing had been."""

import random

import pytest

from hrnet_ray.config import ClusterConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.distributed.training.run_summary import RunResult
from hrnet_ray.distributed.training.train import train_experiment
from tests.chaos.struck import assert_same, fit_struck, herd, short

__all__ = ["herd"]

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.timeout(1200),  # five restarts: a minute and a half, and ten on a busy machine
]

EPOCHS = 11
KILLS = 5  # in a run
PLACES = [
    *("rank=1,epoch=0,step=0", "rank=1,epoch=2,step=3", "rank=0,epoch=5,step=1"),
    *("rank=0,epoch=7,at=report", "rank=1,epoch=9,at=report"),
    *("rank=0,epoch=1,at=end", "rank=1,epoch=3,at=end", "rank=0,epoch=6,at=validation"),
    *("rank=1,epoch=8,at=validation", "rank=0,epoch=10,at=end"),
]
"""The first and a middle step, half a checkpoint, an epoch's very end and a validation, of both."""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> ClusterConfig:
    folder = tmp_path_factory.mktemp("kills") / "runs"
    return ClusterConfig(
        num_workers=2, device="cpu", storage_path=str(folder), log_sample_order=True
    )


@pytest.fixture(scope="module")
def calm(ray_session, herd: DatasetManifest, storage: ClusterConfig) -> RunResult:
    """The run that nobody disturbs."""
    return train_experiment(short(herd, name="calm", epochs=EPOCHS), storage)


def random_places(seed: int) -> list[str]:
    """As many kills as a run gets, in different epochs; most of them at some step."""
    chance = random.Random(seed)
    epochs = sorted(chance.sample(range(EPOCHS), KILLS))
    moments = [f"step={step}" for step in range(6)]
    moments += ["at=validation", "at=report", "at=end"]
    return [f"rank={chance.randrange(2)},epoch={e},{chance.choice(moments)}" for e in epochs]


RUNS = {"first five": PLACES[:KILLS], "other five": PLACES[KILLS:]}
RUNS |= {f"five at random ({seed})": random_places(seed) for seed in range(4)}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_whose_workers_are_killed_ends_as_the_calm_one(
    run: str, calm: RunResult, herd: DatasetManifest, storage: ClusterConfig
):
    """Five kills in a run, each with its restart; the epoch of each is compared, and the end."""
    name = run.translate(str.maketrans(" ", "-", "()"))

    hurt = fit_struck(
        short(herd, name=name, epochs=EPOCHS), storage, [f"kill:{place}" for place in RUNS[run]]
    )

    assert_same(hurt, calm)
