"""A node dies, or the whole cluster: the run continues, or the same command resumes it."""

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
from tests.chaos.commands import EPOCHS, Command, wait_until
from tests.chaos.orphans import make_orphan
from tests.chaos.small_cluster import SmallCluster

pytestmark = pytest.mark.chaos

NODE_TIMEOUT_S = 10
"""Seconds for a node to be replaced; a run has 180 by default."""


def test_a_dead_node_causes_one_restart_and_changes_nothing_else(undisturbed, tigers, tmp_path):
    command = Command(tigers, tmp_path)
    with SmallCluster([1, 1, 1]) as cluster, command.started(cluster.address) as driver:
        command.wait_for_epochs(2, driver)
        rank, victim = _outside_the_head(command.run, cluster)
        done = len(read_metrics(command.run))
        cluster.kill_node(victim)
        again = wait_until(lambda: len(read_metrics(command.run)) > done + 1)
        output = driver.communicate()[0]

    print(f"node killed; the next epoch ended after {again:.1f} s")
    assert driver.returncode == 0, output
    assert command.figures() == undisturbed.figures()  # bit for bit
    assert command.order() == undisturbed.order()
    assert command.folders() == [f"epoch_{epoch:04d}" for epoch in range(EPOCHS - 2, EPOCHS + 1)]
    assert read_metrics(command.run)[-1][RESTARTS_METRIC] == 1
    (message,) = read_events(command.run)
    node = f"{platform.node()} ({cluster.nodes[victim][:8]})"
    assert message.startswith(f"Worker {rank} on node {node} failed (its node died). Restarting")
    assert message in output


def test_a_lost_cluster_ends_the_command_and_the_next_cluster_resumes_the_run(undisturbed, tigers, tmp_path):
    command = Command(tigers, tmp_path)
    with SmallCluster([2]) as cluster, command.started(cluster.address) as driver:
        command.wait_for_epochs(3, driver)
        cluster.kill()
        ended = wait_until(lambda: driver.poll() is not None)
        output = driver.communicate()[0]

    print(f"head node killed; the command ended after {ended:.1f} s")
    done = len(read_metrics(command.run))
    assert driver.returncode == 4, output
    assert "error: the cluster is lost: its head node does not answer\n" in output
    assert "Traceback" not in output
    assert done < EPOCHS

    with SmallCluster([2]) as cluster, command.started(cluster.address) as driver:
        output = driver.communicate()[0]

    assert driver.returncode == 0, output
    assert f"Resuming {command.run} from epoch {done}" in output
    assert command.figures() == undisturbed.figures()  # bit for bit
    assert command.order() == undisturbed.order()


def test_a_node_that_is_not_replaced_ends_the_command_with_the_missing_resources(undisturbed, tigers, tmp_path):
    command = Command(tigers, tmp_path)
    shorten_timeout = (
        "from hrnet_ray.distributed.cluster import head_monitor; "
        f"head_monitor.NODE_REPLACEMENT_TIMEOUT_S = {NODE_TIMEOUT_S}"
    )
    with (
        SmallCluster([1, 2]) as cluster,
        command.started(cluster.address, first=shorten_timeout) as driver,
    ):
        command.wait_for_epochs(2, driver)
        cluster.kill_node(1)
        ended = wait_until(lambda: driver.poll() is not None)
        output = driver.communicate()[0]

    print(f"node killed; the command ended after {ended:.1f} s, {NODE_TIMEOUT_S} s of them waiting")
    assert driver.returncode == 4, output
    assert "error: the cluster has too few CPUs\n  2 workers need 2 CPUs, 1 available\n" in output
    assert "Traceback" not in output
    assert ended > NODE_TIMEOUT_S
    assert len(read_metrics(command.run)) < EPOCHS

    with SmallCluster([1, 2]) as cluster, command.started(cluster.address) as driver:
        output = driver.communicate()[0]

    assert driver.returncode == 0, output
    assert command.figures() == undisturbed.figures()  # bit for bit


def test_an_elastic_run_continues_with_the_remaining_worker(undisturbed, tigers, tmp_path):
    command = Command(tigers, tmp_path, "--cluster.min-workers", "1")
    with SmallCluster([1, 1]) as cluster, command.started(cluster.address) as driver:
        command.wait_for_epochs(2, driver)
        done = len(read_metrics(command.run))
        cluster.kill_node(1)
        again = wait_until(lambda: len(read_metrics(command.run)) > done + 1)
        output = driver.communicate()[0]

    print(f"node killed; the next epoch with one worker ended after {again:.1f} s")
    assert driver.returncode == 0, output
    assert "training with 1 of 2 workers" in output
    assert command.order() == undisturbed.order()  # the same rows with any number of workers
    for (loss, *_), (before, *_) in zip(command.figures(), undisturbed.figures(), strict=True):
        assert loss == pytest.approx(before, rel=0.2)  # BatchNorm sees a batch of 4, not of 2


def test_rows_that_ray_cannot_reconstruct_are_loaded_again(
    ray_session, tiny: ExperimentConfig, here: ClusterConfig, monkeypatch
):
    here = replace(here, num_workers=1)
    train_experiment(replace(tiny, name="undisturbed"), here)
    decoded_flags = []

    def load_with_orphan(
        manifest: DatasetManifest, data: DataConfig, *, decoded: bool | None = None
    ) -> dict[str, CachedSplit]:
        stored = load_into_object_store(manifest, data, decoded=decoded)
        decoded_flags.append(decoded)
        if len(decoded_flags) == 1:
            stored["train"].block_refs[0] = make_orphan(stored["train"].block_refs[0])
        return stored

    monkeypatch.setattr("hrnet_ray.distributed.training.train.load_into_object_store", load_with_orphan)
    disturbed = train_experiment(tiny, here)

    assert decoded_flags == [None, True]
    assert read_events(disturbed.folder) == ["rows in the object store are lost: loading the dataset again"]
    for before, after in zip(
        read_metrics(disturbed.folder.parent / "undisturbed"),
        read_metrics(disturbed.folder),
        strict=True,
    ):
        assert after["train/loss"] == before["train/loss"]


def _outside_the_head(run: Path, cluster: SmallCluster) -> tuple[int, int]:
    """The rank of a worker that is not on the head node, and the number of its node."""
    for rank in range(2):
        location = json.loads((run / "checkpoints" / f"worker_{rank:04d}").read_text())
        if node := cluster.nodes.index(location["node"]):
            return rank, node
    raise AssertionError("both workers are on the head node")
