"""An evaluation on several workers gives the same figures to the bit."""

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
from tests.evaluation.evaluated_models import EASY, corrupt_rows, make_eval_model, write_model, write_tigers

pytestmark = pytest.mark.ray
SPEC = EvaluationSpec(resamples=5)


@pytest.fixture(scope="module")
def tigers(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    """About 20 rows in row groups of 5, one of them corrupt."""
    manifest = write_tigers(tmp_path_factory.mktemp("tigers"))
    corrupt_rows(manifest, 3)
    return manifest


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same_result_to_the_bit(ray_session, tigers: DatasetManifest, workers: int):
    updates: list[tuple[int, int]] = []
    single = evaluate_model(tigers, SPEC, make_eval_model(EASY))
    distributed = evaluate_model(
        tigers,
        SPEC,
        make_eval_model(EASY),
        split_predictor=RayPredictor(ClusterConfig(num_workers=workers, device="cpu"), threads=torch.get_num_threads()),
        progress=lambda label: lambda done, total: updates.append((done, total)),
    )

    for column in fields(single.model_evaluation.split_poses.poses):
        expected, actual = (getattr(e.model_evaluation.split_poses.poses, column.name) for e in (single, distributed))
        np.testing.assert_array_equal(actual, expected, err_msg=column.name)
    assert distributed.model_evaluation.metrics.summary == single.model_evaluation.metrics.summary
    assert (
        distributed.model_evaluation.split_poses.skipped_rows == single.model_evaluation.split_poses.skipped_rows != []
    )
    assert distributed.model_evaluation.interval == single.model_evaluation.interval
    total = len(load_ground_truth(tigers, "val"))
    assert updates[-1] == (total, total)
    assert [done for done, _ in updates] == sorted(done for done, _ in updates)


def test_a_truncated_shard_is_a_data_error(ray_session, tmp_path: Path):
    manifest = write_tigers(tmp_path)
    ground_truth = load_ground_truth(manifest, "val")
    path = tmp_path / "tigers" / manifest.get_shards("val")[-1].file
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(DataError, match="a shard that cannot be read"):
        RayPredictor(ClusterConfig(device="cpu"))(
            make_eval_model(EASY), manifest, "val", ground_truth, None, lambda done, total: None
        )


def test_more_workers_than_cpus_are_refused(ray_session):
    with pytest.raises(ClusterError, match="the cluster has too few CPUs"):
        RayPredictor(ClusterConfig(num_workers=50, device="cpu"))


def test_the_evaluate_command_prints_the_same_with_two_workers(
    ray_session, tigers: DatasetManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = write_model(tmp_path / "model", EASY)
    command = ["evaluate", "--model", str(model), "--data", str(tigers.root), "--resamples", "5"]
    outputs = []
    for flags in ([], ["--num-workers", "2", "--device", "cpu"]):
        with pytest.raises(SystemExit) as end:
            main([*command, *flags])
        assert end.value.code == 0
        outputs.append([line for line in capsys.readouterr().out.splitlines() if "left" not in line])
    assert outputs[0] == outputs[1]
