"""Test the flags of `train` and `tune` that choose a preset, and the table of the plan."""

from dataclasses import replace
from pathlib import Path

import pytest

from hrnet_ray.cli.plan_args import expand_plan_flags, format_plan, plan_from_flags
from hrnet_ray.config import ClusterConfig, ExperimentConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.training.presets import plan_experiment


@pytest.fixture
def cluster(tmp_path: Path) -> ClusterConfig:
    return ClusterConfig(storage_path=str(tmp_path), device="cpu")


def test_auto_and_data_are_expanded():
    words = ["--data", "data/mine", "--optim.batch-size", "auto", "--optim.epochs=auto", "--cluster.device", "auto"]

    assert expand_plan_flags(words) == ["--data.root", "data/mine", "--cluster.device", "auto"]
    assert expand_plan_flags(["--data=x"]) == ["--data.root=x"]


def test_the_published_recipe_is_not_planned(cluster: ClusterConfig):
    parsed = ExperimentConfig(name="as-given")

    assert plan_from_flags("published", parsed, cluster, ["--name", "as-given"]) is parsed


def test_a_flag_that_repeats_a_published_default_replaces_the_preset(tigers: DatasetManifest, cluster: ClusterConfig):
    published = ExperimentConfig()
    parsed = replace(
        published,
        data=replace(published.data, root=str(tigers.root)),
        evaluation=replace(published.evaluation, flip_test=False),
    )
    argv = ["--data.root", str(tigers.root), "--heatmap.sigma", "2.0", "--evaluation.no-flip-test"]

    planned = plan_from_flags("auto", parsed, cluster, argv)

    assert (planned.name, planned.optim.optimizer) == ("tiny", "adamw")
    assert planned.heatmap.sigma == 2.0
    assert not planned.evaluation.flip_test


def test_the_plan_is_printed_before_the_run_starts(
    tigers: DatasetManifest, cluster: ClusterConfig, capsys: pytest.CaptureFixture[str]
):
    parsed = replace(ExperimentConfig(), data=replace(ExperimentConfig().data, root=str(tigers.root)))

    plan_from_flags("small", parsed, cluster, ["--optim.epochs", "3", "--data.root", str(tigers.root)])

    printed = capsys.readouterr().out
    assert "small: HRNet of width 18" in printed
    assert f"of {tigers.splits['train'].rows} rows" in printed


def test_a_run_of_few_steps_is_noted(tigers: DatasetManifest, cluster: ClusterConfig):
    few = plan_experiment("tiny", tigers, cluster, {"optim.epochs": 2})
    planned = plan_experiment("tiny", tigers, cluster, {})

    assert "raise --optim.epochs" in dict(format_plan("tiny", few, tigers, cluster))["note"]
    assert "note" not in dict(format_plan("tiny", planned, tigers, cluster))
