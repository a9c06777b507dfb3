import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ray import tune

from hrnet_ray.config import ClusterConfig
from hrnet_ray.distributed.training.train import validate_settings
from hrnet_ray.distributed.tuning.search_space import format_sampler
from hrnet_ray.distributed.tuning.tune import SearchConfig, run_study, validate_search_space
from hrnet_ray.errors import HrnetRayError, UsageError
from hrnet_ray.tracking import default_tracking_uri

SPACE = {"optim.lr": tune.loguniform(1e-4, 1e-2), "heatmap.sigma": tune.uniform(0.8, 1.6)}


def test_a_search_over_a_misspelt_setting_is_refused(tiny):
    with pytest.raises(UsageError, match=r"did you mean 'heatmap\.sigma'"):
        validate_search_space(tiny, {"heatmap.sgma": tune.uniform(1, 2)})


@pytest.mark.parametrize(
    ("name", "choices", "what"),
    [
        ("optim.batch_size", [8, 2], "batch-size must be at least 4, got 2"),
        ("model.pretrained", [None, "w32.pth"], "there is no such weight file"),
    ],
)
def test_a_choice_that_the_data_or_the_machines_cannot_have_is_refused_before_there_are_trials(
    tiny, here, name, choices, what
):
    with pytest.raises(HrnetRayError, match=what):
        run_study(tiny, {name: tune.choice(choices)}, here, SearchConfig(num_trials=1))

    assert not Path(here.storage_path).exists()


def test_a_body_without_an_upper_half_is_not_cut_in_two(tiny, here, tigers):
    halves = replace(tiny, augment=replace(tiny.augment, half_body_prob=0.3))
    validate_settings(halves, here, tigers)
    nobody = replace(tigers, skeleton=replace(tigers.skeleton, upper_body=()))

    with pytest.raises(UsageError, match="must be 0 for a skeleton without `upper_body`"):
        validate_settings(halves, here, nobody)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_sweep_of_lr_and_sigma_is_recorded_as_a_study_with_its_trials(from_here, tmp_path):
    alone = ClusterConfig(num_workers=1, device="cpu", storage_path=str(tmp_path / "runs"))
    search = SearchConfig(num_trials=3, max_concurrent_trials=2, grace_period=1, reduction_factor=2)

    study = run_study(from_here, SPACE, alone, search)

    assert study.primary_metric == "OKS_AP"
    assert [trial["score"] for trial in study.trials] == sorted(
        (trial["score"] for trial in study.trials), reverse=True
    )
    assert sorted(trial["folder"] for trial in study.trials) == ["01", "02", "03"]
    with (study.folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["folder"] for row in rows] == [trial["folder"] for trial in study.trials]
    summary = json.loads((study.folder / "summary.json").read_text())
    assert summary["optim.lr"] == study.best_trial["optim.lr"]
    assert 1e-4 <= study.best_trial["optim.lr"] <= 1e-2
    best = study.folder / "trials" / study.best_trial["folder"] / "model" / "config.json"
    assert (study.folder / "model" / "config.json").read_bytes() == best.read_bytes()
    assert (study.folder / "report.html").is_file()
    _mlflow_has_the_study(tmp_path, study)

    assert run_study(from_here, SPACE, alone, search).trials == study.trials  # the same command again


def _mlflow_has_the_study(tmp_path, study):
    client = MlflowClient(default_tracking_uri(tmp_path / "runs"))
    board = client.get_experiment_by_name("hrnet/tigers")
    runs = client.search_runs([board.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "study"]
    children = [run for run in runs if run.data.tags["kind"] == "trial"]
    assert len(children) == 3
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent.data.metrics["best.OKS_AP"] == study.best_trial["score"]
    assert len({run.data.tags["ray.trial_id"] for run in children}) == 3
    assert parent.data.params["optim.lr"] == format_sampler(SPACE["optim.lr"])
    assert {"val/loss", "train/loss"} <= children[0].data.metrics.keys()
    lrs = {float(run.data.params["optim.lr"]) for run in children}
    assert lrs == {trial["optim.lr"] for trial in study.trials}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_trial_of_two_workers_is_a_ray_train_run_of_its_own(from_here, here):
    study = run_study(from_here, SPACE, here, SearchConfig(num_trials=1, grace_period=1))

    assert study.best_trial["epochs"] == 2
    trial = study.folder / "trials" / "01" / "checkpoints"
    assert sorted(path.name for path in trial.glob("epoch_*")) == ["epoch_0001", "epoch_0002"]
