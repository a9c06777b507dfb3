"""The benchmark of ingest runs to its last line; its figures are read by people."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SMALLEST = """
import sys
sys.path.insert(0, "benchmarks")
import ingest
least = {"720p": 6, "1080p": 1}
ingest.QUICK = ingest.Amount(pictures=least, cpu_rounds=1, rate_rounds=1, round_s=0.1)
ingest.main()
"""
FIGURES = ["cpu_ratio_720p", "cpu_ratio_1080p", "uncached_ratio", "cached_ratio"]


@pytest.mark.ray
def test_rows_are_measured_against_the_published_loader(root: Path):
    command = [sys.executable, "-c", SMALLEST, "--quick"]

    ended = subprocess.run(command, capture_output=True, text=True, cwd=root)

    assert ended.returncode == 0, ended.stderr[-2000:]
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert list(figures) == FIGURES
    assert min(figures.values()) > 1
