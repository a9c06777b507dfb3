"""Test that no command, from images to a promoted model, connects to another host."""

import ipaddress
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from hrnet_ray.data.images import codec

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

NET = (
    "--cluster.num-workers 2 "
    "--data.input-hw 32 64 --model.width 4 --model.modules 1 1 1 --model.blocks 1 --model.stem 8"
)
COMMANDS = f"""
prepare synthetic --kind tigers --num-train 4 --num-val 2 --out data --max-image-size 96
train --name run --data.root data --optim.epochs 1 --optim.batch-size 4 {NET}
evaluate --model runs/data/run/model --data data --out scores
predict --model runs/data/run/model --input images --out predictions
export --model runs/data/run
promote runs/data/run --data data --force
"""
CLOUDS = ("169.254.169.254", "metadata.google.internal")
"""Metadata servers that Ray's dashboard queries to detect its cloud: a link-local address and a
name. Ray has no setting that disables this."""
QUIET_VARIABLES = (
    "PYTEST_CURRENT_TEST",
    "PYTEST_VERSION",
    "CI",
    "MLFLOW_DISABLE_TELEMETRY",
    "DO_NOT_TRACK",
)
"""Variables that disable the telemetry of libraries in tests; users do not have them."""
RUN_COMMANDS = """
import sys
from hrnet_ray.cli import main

for line in sys.argv[1].strip().splitlines():
    try:
        main(line.split())
    except SystemExit as end:
        assert not end.code, line
"""


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory, root: Path) -> list[tuple[str, str]]:
    """Run the commands and return the connections, name lookups and started processes of all."""
    folder = tmp_path_factory.mktemp("offline")
    environment = os.environ | {
        "NOTED_IN": str(folder / "noted.jsonl"),
        "PYTHONPATH": os.pathsep.join([str(root / "tests" / "offline"), str(root)]),
    }
    for name in ("RAY_ADDRESS", *QUIET_VARIABLES):
        environment.pop(name, None)
    (folder / "images").mkdir()
    codec.write_image(folder / "images" / "otter.png", np.full((96, 128, 3), 90, np.uint8))
    done = subprocess.run(
        [sys.executable, "-c", RUN_COMMANDS, COMMANDS],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (folder / "noted.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [
        (event, detail)
        for program, event, detail in records
        if program != "dashboard.py" or not any(cloud in detail for cloud in CLOUDS)
    ]


def own_addresses() -> set[str]:
    interfaces = psutil.net_if_addrs().values()
    return {entry.address.partition("%")[0] for entries in interfaces for entry in entries}


def external_contacts(events: list[tuple[str, str]]) -> Iterator[str]:
    """Yield connections to other hosts and lookups of their names."""
    local = own_addresses() | {"localhost", socket.gethostname(), "", "None", "0.0.0.0", "::"}
    for event, detail in events:
        if event == "subprocess.Popen":
            continue
        host = detail.strip("('").partition("'")[0] if event == "socket.connect" else detail
        if not host.startswith("/") and host not in local and not _is_loopback(host):
            yield f"{event} {detail}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def test_no_other_host_is_contacted(events):
    assert any(event == "socket.connect" for event, _ in events)  # the recording works
    assert list(external_contacts(events)) == []


def test_nothing_is_installed(events):
    started = [detail for event, detail in events if event == "subprocess.Popen"]
    assert started
    installers = {"pip", "apt", "uv", "conda", "curl", "wget"}
    commands = [{Path(word).name for word in json.loads(detail)} for detail in started]
    assert [command for command in commands if command & installers] == []
