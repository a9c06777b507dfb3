"""From pictures to a promoted model without a network: nobody asks anybody outside."""

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

NET = "--data.input-hw 32 64 --model.width 4 --model.modules 1 1 1 --model.blocks 1 --model.stem 8"
PATH = f"""
prepare synthetic --kind tigers --num-train 4 --num-val 2 --out data --max-image-size 96
train --name run --data.root data --optim.epochs 1 --optim.batch-size 4 --cluster.num_workers 2 {NET}
evaluate --model runs/data/run/model --data data --out scores
predict --model runs/data/run/model --input pictures --out predictions
export --model runs/data/run
promote runs/data/run --data data --force
"""
CLOUDS = ("169.254.169.254", "metadata.google.internal")
"""Where Ray's dashboard asks in which cloud it is, usage reports or not: a link-local address, and
its name. No setting keeps it from that."""
HUSHED = ("PYTEST_CURRENT_TEST", "PYTEST_VERSION", "CI", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
"""By these a library knows that it is tested, and keeps quiet; users have none of them."""
ALL = """
import sys
from hrnet_ray.cli import main

for line in sys.argv[1].strip().splitlines():
    try:
        main(line.split())
    except SystemExit as end:
        assert not end.code, line
"""


@pytest.fixture(scope="module")
def noted(tmp_path_factory: pytest.TempPathFactory, root: Path) -> list[tuple[str, str]]:
    """What all processes of the whole path connected to, looked up and started."""
    folder = tmp_path_factory.mktemp("offline")
    environment = os.environ | {
        "NOTED_IN": str(folder / "noted.jsonl"),
        "PYTHONPATH": os.pathsep.join([str(root / "tests" / "offline"), str(root)]),
    }
    for name in ("RAY_ADDRESS", *HUSHED):
        environment.pop(name, None)
    (folder / "pictures").mkdir()
    codec.write_image(folder / "pictures" / "otter.png", np.full((96, 128, 3), 90, np.uint8))
    ended = subprocess.run(
        [sys.executable, "-c", ALL, PATH],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = (folder / "noted.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    return [
        (event, what)
        for program, event, what in told
        if program != "dashboard.py" or not any(cloud in what for cloud in CLOUDS)
    ]


def own_addresses() -> set[str]:
    found = psutil.net_if_addrs().values()
    return {one.address.partition("%")[0] for addresses in found for one in addresses}


def outside(noted: list[tuple[str, str]]) -> Iterator[str]:
    """Connections to other machines, and names that were looked up."""
    mine = own_addresses() | {"localhost", socket.gethostname(), "", "None", "0.0.0.0", "::"}
    for event, told in noted:
        if event == "subprocess.Popen":
            continue
        host = told.strip("('").partition("'")[0] if event == "socket.connect" else told
        if not host.startswith("/") and host not in mine and not _is_loopback(host):
            yield f"{event} {told}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def test_nobody_outside_is_asked(noted):
    assert any(event == "socket.connect" for event, _ in noted)  # something was seen
    assert list(outside(noted)) == []


def test_nothing_is_installed(noted):
    started = [told for event, told in noted if event == "subprocess.Popen"]
    assert started
    installers = ("pip", "apt", "uv", "conda", "curl", "wget")
    words = [{Path(word).name for word in json.loads(told)} for told in started]
    assert [one for one in words if one & set(installers)] == []
