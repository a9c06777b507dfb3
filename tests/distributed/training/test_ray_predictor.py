"""Workers share an evaluation: the same figures, to the bit."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from hrnet_ray.cli import main
from hrnet_ray.config import ClusterConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.distributed.training.ray_predictor import RayPredictor
from hrnet_ray.errors import ClusterError, DataError
from hrnet_ray.evaluation.ground_truth import load_ground_truth
from hrnet_ray.evaluation.model_evaluation import EvaluationSpec, evaluate_model
from tests.evaluation.evaluated_models import EASY, candidate, rot, write_easy_tigers, write_model

pytestmark = pytest.mark.ray
QUESTION = EvaluationSpec(resamples=5)


@pytest.fixture(scope="module")
def tigers(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    """Some 20 rows in row groups of 5, one of them rotten."""
    manifest = write_easy_tigers(tmp_path_factory.mktemp("tigers"))
    rot(manifest, 3)
    return manifest


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_finds_the_same_to_the_bit(
    ray_session, tigers: DatasetManifest, workers: int
):
    told: list[tuple[int, int]] = []
    alone = evaluate_model(tigers, QUESTION, candidate(EASY))
    shared = evaluate_model(
        tigers,
        QUESTION,
        candidate(EASY),
        split_predictor=RayPredictor(
            ClusterConfig(num_workers=workers, device="cpu"), threads=torch.get_num_threads()
        ),
        progress=lambda what: lambda done, total: told.append((done, total)),
    )

    for column in fields(alone.model_evaluation.split_poses.poses):
        one, other = (
            getattr(e.model_evaluation.split_poses.poses, column.name) for e in (alone, shared)
        )
        np.testing.assert_array_equal(one, other, err_msg=column.name)
    assert shared.model_evaluation.metrics.summary == alone.model_evaluation.metrics.summary
    assert (
        shared.model_evaluation.split_poses.skipped_rows
        == alone.model_evaluation.split_poses.skipped_rows
        != []
    )
    assert shared.model_evaluation.interval == alone.model_evaluation.interval
    total = len(load_ground_truth(tigers, "val"))
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_damaged_shard_is_told_as_what_it_is(ray_session, tmp_path: Path):
    manifest = write_easy_tigers(tmp_path)
    labelled = load_ground_truth(manifest, "val")
    path = tmp_path / "tigers" / manifest.get_shards("val")[-1].file
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(DataError, match="a shard that cannot be read"):
        RayPredictor(ClusterConfig(device="cpu"))(
            candidate(EASY), manifest, "val", labelled, None, lambda done, total: None
        )


def test_more_workers_than_machines_are_refused(ray_session):
    with pytest.raises(ClusterError, match="the cluster has too few CPUs"):
        RayPredictor(ClusterConfig(num_workers=50, device="cpu"))


def test_the_command_shares_with_workers(
    ray_session, tigers: DatasetManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = write_model(tmp_path / "model", EASY)
    command = ["evaluate", "--model", str(model), "--data", str(tigers.root), "--resamples", "5"]
    said = []
    for more in ([], ["--num-workers", "2", "--device", "cpu"]):
        with pytest.raises(SystemExit) as end:
            main([*command, *more])
        assert end.value.code == 0
        said.append([line for line in capsys.readouterr().out.splitlines() if "left" not in line])
    assert said[0] == said[1]
