"""Two workers of the scaling benchmark meet, and end with their figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(180)  # two more processes that import torch
def test_two_workers_are_timed_against_one(root: Path):
    command = [sys.executable, "benchmarks/scaling.py", "--quick", "--width", "4", "--crops", "2"]

    ended = subprocess.run(command, capture_output=True, text=True, cwd=root)

    assert ended.returncode == 0, ended.stderr[-2000:]
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert list(figures) == ["efficiency_2", "efficiency_2_cpu"]
    assert min(figures.values()) > 0
