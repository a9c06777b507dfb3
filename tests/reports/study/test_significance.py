"""Significance of the best trial, from predictions as a training writes them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.errors import DataError
from hrnet_ray.evaluation.ground_truth import load_ground_truth
from hrnet_ray.metrics.predictions import KeypointPredictions
from hrnet_ray.metrics.validation import compute_validation_metrics, to_coco_results
from hrnet_ray.reports.study.significance import compare_best_trials
from hrnet_ray.reports.study.trial_results import StudyResults, TrialResult
from tests.evaluation.evaluated_models import write_people, write_tigers


@pytest.fixture(scope="module")
def tigers(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return write_tigers(tmp_path_factory.mktemp("significance"), val=16)


def make_study(folder: Path, manifest: DatasetManifest, noise_px: list[float]) -> StudyResults:
    """A trial for each standard deviation of the predictions, in pixels, best first."""
    truth = load_ground_truth(manifest, "val").columns
    trials = []
    for number, std_px in enumerate(noise_px):
        noise = np.random.default_rng(number).normal(0, std_px, truth["image_xy"].shape)
        predictions = KeypointPredictions(
            torch.tensor(truth["id"]),
            torch.tensor(truth["image_xy"] + noise, dtype=torch.float32),
            torch.rand(truth["visible"].shape, generator=torch.Generator().manual_seed(number)),
        )
        scores = compute_validation_metrics(predictions, truth, manifest.skeleton)
        path = folder / "trials" / f"{number:02d}" / "predictions" / "val.coco.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(to_coco_results(predictions, truth)))
        trials.append(
            TrialResult(
                name=f"{number:02d}",
                sampled_params={},
                settings={"data.root": str(manifest.root)},
                metric=scores.primary_metric,
                score=scores.primary_value,
                best_epoch=1,
                epoch_records=[],
                error="",
                extra_columns={},
            )
        )
    trials.sort(key=lambda trial: -trial.score)
    return StudyResults(study_dir=folder, name="s", metric=trials[0].metric, searched_settings=[], trials=trials)


@pytest.mark.parametrize("kind", ["tigers", "people"])
def test_a_large_gap_is_significant_and_a_small_one_is_not(kind: str, tigers: DatasetManifest, tmp_path: Path):
    is_people = kind == "people"
    manifest = write_people(tmp_path, val=12) if is_people else tigers
    study = make_study(tmp_path, manifest, [4.0, 4.0, 300.0] if is_people else [9.0, 9.0, 60.0])

    significance = compare_best_trials(study, resamples=200)

    second, last = significance.runners_up
    assert significance.indistinguishable_trials == [second.trial]
    assert last.interval.low > 0
    assert last.score_gap == pytest.approx(study.best_trial.score - last.trial.score)
    assert significance.interval.low <= study.best_trial.score <= significance.interval.high
    assert significance.num_images == len(load_ground_truth(manifest, "val").image_names)


def test_predictions_that_give_another_score_are_not_compared(tigers: DatasetManifest, tmp_path: Path):
    study = make_study(tmp_path, tigers, [9.0, 12.0])
    wrong = replace(study, trials=[replace(study.best_trial, score=0.5), study.trials[1]])

    with pytest.raises(DataError, match=f"trial #{study.best_trial.name} do not give its score"):
        compare_best_trials(wrong, resamples=2)


def test_invalid_predictions_are_named(tigers: DatasetManifest, tmp_path: Path):
    study = make_study(tmp_path, tigers, [9.0, 12.0])
    path = tmp_path / "trials" / study.trials[1].name / "predictions" / "val.coco.json"
    path.write_text("[{}]")

    with pytest.raises(DataError, match=f"trial #{study.trials[1].name} cannot be compared"):
        compare_best_trials(study, resamples=2)
