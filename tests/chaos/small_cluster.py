"""A Ray cluster of several nodes on this machine, in a process of its own.

    with SmallCluster([1, 1, 1]) as cluster:
        subprocess.run([..., "--cluster.ray-address", cluster.address])
        cluster.kill_node(2)

As a program this module is that process: it prints the address and the node ids, and kills each
node whose id it reads.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress

import psutil

STORE_BYTES = 150 * 2**20
"""Object store of a node in bytes."""
EXIT_TIMEOUT_S = 60
"""Seconds in which the cluster process has to end."""


class SmallCluster:
    """Nodes with these numbers of CPUs; the first is the head node."""

    def __init__(self, cpus: list[int]) -> None:
        self._cpus = cpus
        self.address = ""
        self.nodes: list[str] = []
        """Node ids, the head node first."""

    def __enter__(self) -> "SmallCluster":
        # A short path, because names of Ray's sockets may have 107 bytes at most.
        self._folder = tempfile.TemporaryDirectory(prefix="hr", dir="/tmp")
        self._process = subprocess.Popen(
            [sys.executable, __file__, *map(str, self._cpus)],
            env=environment_without_ray() | {"RAY_TMPDIR": self._folder.name},  # Ray records addresses there
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                info = json.loads(line)
                self.address, self.nodes = info["address"], info["nodes"]
                break
        assert self.address, "the cluster did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        with suppress(OSError):
            self._folder.cleanup()

    def kill_node(self, number: int) -> None:
        """Kill all processes of a node at once, as a power failure does."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{self.nodes[number]}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline().strip() == "killed"

    def kill(self) -> None:
        """Kill all nodes at once, the head node included."""
        processes = [self._process]
        with suppress(psutil.Error):
            processes += psutil.Process(self._process.pid).children(recursive=True)
        for process in processes:
            with suppress(psutil.Error, OSError):
                process.kill()
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(EXIT_TIMEOUT_S)


def environment_without_ray() -> dict[str, str]:
    """The environment of this process without the address of a Ray cluster."""
    return {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_JOB_ID")}


def serve(cpus: list[int]) -> None:
    """Start the nodes, print their ids, and kill those whose ids are read."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": cpus[0],
            "object_store_memory": STORE_BYTES,
            "include_dashboard": True,
            "dashboard_port": 0,
            "node_ip_address": "127.0.0.1",
        },
    )
    for count in cpus[1:]:
        cluster.add_node(num_cpus=count, object_store_memory=STORE_BYTES, node_ip_address="127.0.0.1")
    cluster.wait_for_nodes()
    nodes = {node.node_id: node for node in cluster.list_all_nodes()}
    print(json.dumps({"address": cluster.address, "nodes": list(nodes)}), flush=True)
    for line in sys.stdin:
        cluster.remove_node(nodes[line.strip()], allow_graceful=False)
        print("killed", flush=True)


if __name__ == "__main__":
    serve([int(word) for word in sys.argv[1:]])
