"""`ray job submit` against a head of our own, on loopback, with token authentication."""

import re

import pytest
from mlflow import MlflowClient

from hrnet_ray.tracking import default_tracking_uri
from tests.ray_head import ray_head


@pytest.mark.ray
def test_the_search_runs_as_a_submitted_job(tmp_path):
    storage = tmp_path / "runs"
    command = [
        "python",
        "experiments/tune_atrw.py",
        "--smoke-test",
        "--cluster.storage-path",
        str(storage),
    ]

    with ray_head(tmp_path) as head:
        submitted = head.submit("--working-dir", ".", "--", *command)

    print(submitted.stdout[-4000:], submitted.stderr[-2000:])
    assert submitted.returncode == 0
    assert re.search(r"best OKS_AP \d\.\d{4} with optim\.lr", submitted.stdout)
    assert "registry  hrnet-tigers version 1 is the challenger" in submitted.stdout
    client = MlflowClient(default_tracking_uri(storage))
    challenger = client.get_model_version_by_alias("hrnet-tigers", "challenger")
    assert challenger.description.startswith("best model of a study, not evaluated yet\n\n# HRNet-W16")
    assert "\r" not in submitted.stdout  # no bars in a log
    trials = (storage / "tigers" / "tune-w32-192x256-smoke" / "trials.csv").read_text()
    assert len(trials.splitlines()) == 1 + 2
