"""Workers are killed at any point; the run ends like one without failures."""

import random

import pytest

from hrnet_ray.config import ClusterConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.distributed.training.run_summary import RunResult
from hrnet_ray.distributed.training.train import train_experiment
from tests.chaos.struck import assert_same, herd, make_experiment, train_with_faults

__all__ = ["herd"]

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.timeout(1200),  # five restarts: a minute and a half, and ten on a busy machine
]

EPOCHS = 11
KILLS = 5
"""Kills in a run."""
PLACES = [
    *("rank=1,epoch=0,step=0", "rank=1,epoch=2,step=3", "rank=0,epoch=5,step=1"),
    *("rank=0,epoch=7,at=report", "rank=1,epoch=9,at=report"),
    *("rank=0,epoch=1,at=end", "rank=1,epoch=3,at=end", "rank=0,epoch=6,at=validation"),
    *("rank=1,epoch=8,at=validation", "rank=0,epoch=10,at=end"),
]
"""First and middle steps, reports, ends of epochs and validations, on both ranks."""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> ClusterConfig:
    folder = tmp_path_factory.mktemp("kills") / "runs"
    return ClusterConfig(num_workers=2, device="cpu", storage_path=str(folder), log_sample_order=True)


@pytest.fixture(scope="module")
def undisturbed(ray_session, herd: DatasetManifest, storage: ClusterConfig) -> RunResult:
    """The run without failures."""
    return train_experiment(make_experiment(herd, name="undisturbed", epochs=EPOCHS), storage)


def random_places(seed: int) -> list[str]:
    """Kills at random points of different epochs, most of them at a step."""
    generator = random.Random(seed)
    epochs = sorted(generator.sample(range(EPOCHS), KILLS))
    points = [f"step={step}" for step in range(6)]
    points += ["at=validation", "at=report", "at=end"]
    return [f"rank={generator.randrange(2)},epoch={e},{generator.choice(points)}" for e in epochs]


RUNS = {"first five": PLACES[:KILLS], "other five": PLACES[KILLS:]}
RUNS |= {f"five random ({seed})": random_places(seed) for seed in range(4)}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_with_five_killed_workers_ends_like_the_undisturbed_run(
    run: str, undisturbed: RunResult, herd: DatasetManifest, storage: ClusterConfig
):
    name = run.translate(str.maketrans(" ", "-", "()"))

    disturbed = train_with_faults(
        make_experiment(herd, name=name, epochs=EPOCHS),
        storage,
        [f"kill:{place}" for place in RUNS[run]],
    )

    assert_same(disturbed, undisturbed)
