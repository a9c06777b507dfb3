"""A cluster with an autoscaler: nodes are requested for a run and released afterwards."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.commands import EPOCHS, Command
from tests.chaos.small_cluster import environment_without_ray
from tests.ray_head import Head, ray_head

pytestmark = pytest.mark.chaos

REQUEST = """
import sys
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get
from hrnet_ray.config import ClusterConfig
from hrnet_ray.distributed.cluster.autoscaling import wait_for_resources
from hrnet_ray.distributed.cluster.resources import compute_worker_resources, init_ray

cluster = ClusterConfig(
    num_workers=int(sys.argv[1]), device="gpu", resource_timeout_s=float(sys.argv[2])
)
init_ray(cluster)
resources = wait_for_resources(cluster)
print("then requested", _internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL).decode())
print("one worker has", compute_worker_resources(cluster, resources).gpus, "GPU")
"""


def request(head: Head, *, workers: int, wait_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", REQUEST, str(workers), str(wait_s)],
        env=environment_without_ray() | {"RAY_ADDRESS": head.gcs},
        capture_output=True,
        text=True,
    )


def test_missing_gpus_are_awaited_and_released(tmp_path: Path):
    with ray_head(tmp_path, grows_by={"CPU": 1, "GPU": 1}) as head:
        result = request(head, workers=2, wait_s=120)

        assert result.returncode == 0, result.stderr
        first, *_, request_left, share = result.stdout.splitlines()
        assert first == "waiting up to 120 s for nodes: 2 workers need 2 GPUs, 0 available"
        assert request_left == "then requested []"  # idle nodes cost money
        assert share == "one worker has 1 GPU"

        started_s = time.monotonic()
        result = request(head, workers=3, wait_s=5)  # more than the cluster can have

    assert time.monotonic() - started_s < 60
    assert "the cluster has too few GPUs" in result.stderr


def test_a_run_starts_when_its_nodes_are_available(undisturbed: Command, tigers, tmp_path: Path):
    command = Command(tigers, tmp_path, "--cluster.resource-timeout-s", "120")
    with (
        ray_head(tmp_path, cpus=1, grows_by={"CPU": 1}) as head,
        command.started(head.gcs) as driver,
    ):
        output = driver.communicate()[0]

    assert driver.returncode == 0, output
    assert "waiting up to 120 s for nodes: " in output
    assert len(command.figures()) == EPOCHS
    assert command.figures() == undisturbed.figures()  # bit for bit
