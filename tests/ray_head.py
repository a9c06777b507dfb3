"""A real Ray head of our own on loopback, with token authentication, and `ray job` against it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
RAY = str(BIN / "ray")
CHORES = [
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"),
]  # of `ray up`: nothing to do here
HEAD_TYPE = "ray.head.default"  # as Ray's provider of nodes that are processes has it
NODES = 2  # by which a head may grow
STOP_WAIT = {"RAY_JOB_STOP_WAIT_TIME_S": "30"}  # as in cluster/*.yaml; a busy machine needs more than Ray's 3 s to save
GROWING = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}


@dataclass(frozen=True)
class Head:
    """Where it listens, what it is, and where it writes."""

    address: str
    process: subprocess.Popen
    session: Path
    gcs: str
    """What drivers join."""

    def family(self) -> list[psutil.Process]:
        """The head and all that descends from it."""
        started = psutil.Process(self.process.pid)
        return [started, *started.children(recursive=True)]

    def job(self, *words: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        """`ray job WORDS`, from the folder of the repository."""
        env = dict(os.environ) if token is None else os.environ | {"RAY_AUTH_TOKEN": token}
        return subprocess.run(
            [RAY, "job", words[0], "--address", self.address, *words[1:]],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=env,
        )

    def submit(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit`, and again while the head says that its agent is still on its way."""
        for _ in range(30):
            submitted = self.job("submit", *words)
            if "No available agent" not in submitted.stderr:
                break
            time.sleep(2)
        return submitted


@contextmanager
def ray_head(folder: Path, *, cpus: int = 2, grows_by: Mapping[str, float] | None = None) -> Iterator[Head]:
    """Start a head in the repository's folder; it ends by the pid that we started.

    It may grow, where it is asked to, by two nodes with the resources of `grows_by`.
    """
    port, dashboard = _free_port(), _free_port()
    gcs = f"127.0.0.1:{port}"
    short = tempfile.mkdtemp(prefix="ray")  # pytest's own path is too long for Ray's sockets
    log = folder / "head.log"
    started = subprocess.Popen(
        [
            RAY, "start", "--head", "--block", f"--num-cpus={cpus}", f"--port={port}",
            f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1",
            f"--dashboard-agent-listen-port={_free_port()}",
            f"--ray-client-server-port={_free_port()}",
            "--include-dashboard=true", "--node-ip-address=127.0.0.1",
            "--object-store-memory=300000000", "--disable-usage-stats", f"--temp-dir={short}",
            *([f"--autoscaling-config={_growing(folder, gcs, grows_by)}"] if grows_by else []),
        ],
        env=os.environ | STOP_WAIT | (GROWING if grows_by else {}) | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        cwd=ROOT,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        _wait_for(dashboard, started, log)
        yield Head(f"http://127.0.0.1:{dashboard}", started, Path(short), gcs)
    finally:
        _end(started)
        shutil.rmtree(short, ignore_errors=True)


def _growing(folder: Path, gcs: str, grows_by: Mapping[str, float]) -> Path:
    """What `ray up` would upload: nodes are processes of this machine."""
    path = folder / "growing.json"  # JSON is YAML
    path.write_text(
        json.dumps(
            {
                **{key: {} for key in ("auth", "file_mounts", "docker")},
                **{key: [] for key in CHORES},
                "cluster_name": "growing",
                "max_workers": NODES,
                "upscaling_speed": 1.0,
                "idle_timeout_minutes": 0.1,
                "provider": {
                    "type": "fake_multinode",
                    "gcs_address": gcs,
                    "disable_node_updaters": True,
                    "disable_launch_config_check": True,
                },
                "head_node_type": HEAD_TYPE,
                "available_node_types": {
                    HEAD_TYPE: {"resources": {}, "node_config": {}, "max_workers": 0},
                    "more": {
                        "resources": {"object_store_memory": 100_000_000, **grows_by},
                        "node_config": {},
                        "min_workers": 0,
                        "max_workers": NODES,
                    },
                },
            }
        )
    )
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _end(head: subprocess.Popen) -> None:
    """End the head and what descends from it, and nothing else."""
    if head.poll() is not None:
        return
    family = psutil.Process(head.pid).children(recursive=True)
    for process in [*family, psutil.Process(head.pid)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait()
    psutil.wait_procs(family, timeout=15)


def _wait_for(port: int, head: subprocess.Popen, log: Path) -> None:
    for _ in range(300):
        assert head.poll() is None, log.read_text()[-2000:]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"no job server after 60 s\n{log.read_text()[-2000:]}")
