"""The benchmark of prepare runs to its last line; its figures are read by people."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.ray
def test_prepare_is_measured_against_a_bare_loop(root: Path):
    command = [sys.executable, "benchmarks/prepare.py", "--images", "300"]

    ended = subprocess.run(command, capture_output=True, text=True, cwd=root)

    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "300 rows, all shards as they were written" in ended.stdout
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert list(figures) == [
        "prepare_ratio",
        "rate",
        "cpu_ratio",
        "memory_growth",
        "memory_peak_mb",
    ]
    assert min(figures["prepare_ratio"], figures["rate"], figures["cpu_ratio"]) > 0
