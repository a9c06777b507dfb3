"""A node dies, or all of them with the head: the run goes on, or the same command does."""

import json
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from hrnet_ray.config import ClusterConfig, DataConfig, ExperimentConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.distributed.data.object_store import CachedSplit, load_into_object_store
from hrnet_ray.distributed.training.train import train_experiment
from hrnet_ray.distributed.training.worker_failures import RESTARTS_METRIC
from hrnet_ray.runs.event_log import read_events, read_metrics
from tests.chaos.commands import EPOCHS, Command, when
from tests.chaos.orphans import orphaned
from tests.chaos.small_cluster import SmallCluster

pytestmark = pytest.mark.chaos

PATIENCE_S = 10  # for a node to be replaced; a run has 180


def test_a_node_that_dies_costs_a_restart_and_nothing_else(calm, tigers, tmp_path):
    command = Command(tigers, tmp_path)
    with SmallCluster([1, 1, 1]) as cluster, command.started(cluster.address) as driver:
        command.wait_for_epochs(2, driver)
        rank, victim = _outside_the_head(command.run, cluster)
        done = len(read_metrics(command.run))
        cluster.kill_node(victim)
        again = when(lambda: len(read_metrics(command.run)) > done + 1)
        said = driver.communicate()[0]

    print(f"a node's death -> an epoch more: {again:.1f} s")
    assert driver.returncode == 0, said
    assert command.figures() == calm.figures()  # bit for bit
    assert command.order() == calm.order()
    assert command.folders() == [f"epoch_{epoch:04d}" for epoch in range(EPOCHS - 3, EPOCHS)]
    assert read_metrics(command.run)[-1][RESTARTS_METRIC] == 1
    (note,) = read_events(command.run)
    node = f"{platform.node()} ({cluster.nodes[victim][:8]})"
    assert note.startswith(f"lost worker {rank} on node {node}: its node is gone; going on after")
    assert note in said


def test_a_cluster_that_is_lost_ends_the_command_which_goes_on_with_the_next_one(
    calm, tigers, tmp_path
):
    command = Command(tigers, tmp_path)
    with SmallCluster([2]) as cluster, command.started(cluster.address) as driver:
        command.wait_for_epochs(3, driver)
        cluster.kill()
        ended = when(lambda: driver.poll() is not None)
        said = driver.communicate()[0]

    print(f"a head's death -> the command has ended: {ended:.1f} s")
    done = len(read_metrics(command.run))
    assert driver.returncode == 4, said
    assert "error: the cluster is lost: its head does not answer\n" in said
    assert "Traceback" not in said
    assert done < EPOCHS

    with SmallCluster([2]) as cluster, command.started(cluster.address) as driver:
        said = driver.communicate()[0]

    assert driver.returncode == 0, said
    assert f"going on in {command.run} after epoch {done}" in said
    assert command.figures() == calm.figures()  # bit for bit
    assert command.order() == calm.order()


def test_a_node_that_nobody_replaces_ends_the_command_with_what_is_missing(calm, tigers, tmp_path):
    command = Command(tigers, tmp_path)
    sooner = f"from hrnet_ray.distributed import vigil; vigil.TOO_SMALL_S = {PATIENCE_S}"
    with (
        SmallCluster([1, 2]) as cluster,
        command.started(cluster.address, first=sooner) as driver,
    ):
        command.wait_for_epochs(2, driver)
        cluster.kill_node(1)
        ended = when(lambda: driver.poll() is not None)
        said = driver.communicate()[0]

    print(f"a node's death -> the command has ended: {ended:.1f} s, of which it waits {PATIENCE_S}")
    assert driver.returncode == 4, said
    assert "error: the cluster has too few CPUs\n  2 workers want 2 CPUs | have 1\n" in said
    assert "Traceback" not in said
    assert ended > PATIENCE_S
    assert len(read_metrics(command.run)) < EPOCHS

    with SmallCluster([1, 2]) as cluster, command.started(cluster.address) as driver:
        said = driver.communicate()[0]

    assert driver.returncode == 0, said
    assert command.figures() == calm.figures()  # bit for bit


def test_an_elastic_run_goes_on_with_the_worker_that_is_left(calm, tigers, tmp_path):
    command = Command(tigers, tmp_path, "--cluster.min-workers", "1")
    with SmallCluster([1, 1]) as cluster, command.started(cluster.address) as driver:
        command.wait_for_epochs(2, driver)
        done = len(read_metrics(command.run))
        cluster.kill_node(1)
        again = when(lambda: len(read_metrics(command.run)) > done + 1)
        said = driver.communicate()[0]

    print(f"a node's death -> an epoch more with one worker: {again:.1f} s")
    assert driver.returncode == 0, said
    assert "training with 1 of 2 workers" in said
    assert command.order() == calm.order()  # the very same rows, whoever is there
    for (loss, *_), (before, *_) in zip(command.figures(), calm.figures(), strict=True):
        assert loss == pytest.approx(before, rel=0.2)  # BatchNorm sees a batch of 4, not of 2


def test_rows_that_ray_cannot_make_again_are_read_again(
    ray_session, tiny: ExperimentConfig, here: ClusterConfig, monkeypatch
):
    here = replace(here, num_workers=1)
    train_experiment(replace(tiny, name="calm"), here)
    times = []

    def load_badly(
        manifest: DatasetManifest, data: DataConfig, *, decoded: bool | None = None
    ) -> dict[str, CachedSplit]:
        stored = load_into_object_store(manifest, data, decoded=decoded)
        times.append(decoded)
        if len(times) == 1:
            stored["train"].block_refs[0] = orphaned(stored["train"].block_refs[0])
        return stored

    monkeypatch.setattr("hrnet_ray.distributed.training.train.load", load_badly)
    hurt = train_experiment(tiny, here)

    assert times == [None, True]
    assert read_events(hurt.folder) == ["rows in the object store are lost: reading the data again"]
    for before, after in zip(
        read_metrics(hurt.folder.parent / "calm"), read_metrics(hurt.folder), strict=True
    ):
        assert after["train/loss"] == before["train/loss"]


def _outside_the_head(run: Path, cluster: SmallCluster) -> tuple[int, int]:
    """A worker that is not on the head, and the number of its node."""
    for rank in range(2):
        word = json.loads((run / "ray" / f"worker_{rank:04d}").read_text())
        if node := cluster.nodes.index(word["node"]):
            return rank, node
    raise AssertionError("both workers are on the head")
