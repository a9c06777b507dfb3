"""A cluster with an autoscaler: asked for the machines of a run, and let go of them afterwards."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.commands import EPOCHS, Command
from tests.chaos.small_cluster import calm_environment
from tests.ray_head import Head, ray_head

pytestmark = pytest.mark.chaos

ASKED = """
import sys
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get
from hrnet_ray.config import Cluster
from hrnet_ray.distributed.cluster.autoscaling import resources
from hrnet_ray.distributed.cluster.resources import connect, share_of

cluster = Cluster(workers=int(sys.argv[1]), device="gpu", wait_s=float(sys.argv[2]))
connect(cluster)
have = resources(cluster)
print("then asked for", _internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL).decode())
print("one gets", share_of(cluster, have).gpus, "GPU")
"""


def asked(head: Head, *, workers: int, wait_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ASKED, str(workers), str(wait_s)],
        env=calm_environment() | {"RAY_ADDRESS": head.gcs},
        capture_output=True,
        text=True,
    )


def test_gpus_that_are_not_there_yet_are_waited_for_and_let_go(tmp_path: Path):
    with ray_head(tmp_path, grows_by={"CPU": 1, "GPU": 1}) as head:
        done = asked(head, workers=2, wait_s=120)

        assert done.returncode == 0, done.stderr
        first, *_, left, told = done.stdout.splitlines()
        assert first == "waiting for machines, for up to 120 s: 2 workers want 2 GPUs | have 0"
        assert left == "then asked for []"  # nobody pays for machines that have nothing to do
        assert told == "one gets 1 GPU"

        began = time.monotonic()
        done = asked(head, workers=3, wait_s=5)  # more than it can grow to

    assert time.monotonic() - began < 60
    assert "the cluster has too few GPUs" in done.stderr


def test_a_run_begins_when_its_machines_are_there(calm: Command, tigers, tmp_path: Path):
    command = Command(tigers, tmp_path, "--cluster.resource-timeout-s", "120")
    with (
        ray_head(tmp_path, cpus=1, grows_by={"CPU": 1}) as head,
        command.started(head.gcs) as driver,
    ):
        said = driver.communicate()[0]

    assert driver.returncode == 0, said
    assert "waiting for machines, for up to 120 s: " in said
    assert len(command.figures()) == EPOCHS
    assert command.figures() == calm.figures()  # bit for bit
