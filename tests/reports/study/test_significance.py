"""The best trials are compared by predictions that a training would have written."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hrnet_ray.data.manifest import Manifest
from hrnet_ray.errors import DataError
from hrnet_ray.evaluation.ground_truth import read_labels
from hrnet_ray.metrics.predictions import Predictions
from hrnet_ray.metrics.validation import coco_results, score
from hrnet_ray.reports.study.significance import certainty
from hrnet_ray.reports.study.trial_results import Trial, Trials
from tests.evaluation.evaluated_models import write_easy_tigers, write_some_people


@pytest.fixture(scope="module")
def tigers(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_easy_tigers(tmp_path_factory.mktemp("sure"), val=16)


def study_of(folder: Path, manifest: Manifest, away_px: list[float]) -> Trials:
    """A trial for each, whose predictions are so many pixels off, best first."""
    truth = read_labels(manifest, "val").truth
    trials = []
    for at, away in enumerate(away_px):
        noise = np.random.default_rng(at).normal(0, away, truth["image_xy"].shape)
        found = Predictions(
            torch.tensor(truth["id"]),
            torch.tensor(truth["image_xy"] + noise, dtype=torch.float32),
            torch.rand(truth["visible"].shape, generator=torch.Generator().manual_seed(at)),
        )
        scores = score(found, truth, manifest.skeleton)
        path = folder / "trials" / f"{at:02d}" / "predictions" / "val.coco.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(coco_results(found, truth)))
        trials.append(
            Trial(
                name=f"{at:02d}",
                drawn={},
                settings={"data.root": str(manifest.root)},
                metric=scores.main,
                score=scores.value,
                best_epoch=0,
                epochs=[],
                error="",
                more={},
            )
        )
    trials.sort(key=lambda trial: -trial.score)
    return Trials(folder=folder, name="s", metric=trials[0].metric, searched=[], all=trials)


@pytest.mark.parametrize("kind", ["tigers", "people"])
def test_who_is_far_behind_is_told_apart_and_who_is_close_is_not(
    kind: str, tigers: Manifest, tmp_path: Path
):
    people = kind == "people"
    manifest = write_some_people(tmp_path, val=12) if people else tigers
    study = study_of(tmp_path, manifest, [4.0, 4.0, 300.0] if people else [9.0, 9.0, 60.0])

    sure = certainty(study, resamples=200)

    second, last = sure.rivals
    assert sure.as_good == [second.trial]
    assert last.interval.low > 0
    assert last.behind == pytest.approx(study.best.score - last.trial.score)
    assert sure.interval.low <= study.best.score <= sure.interval.high
    assert sure.pictures == len(read_labels(manifest, "val").pictures)


def test_predictions_that_give_another_score_are_not_compared(tigers: Manifest, tmp_path: Path):
    study = study_of(tmp_path, tigers, [9.0, 12.0])
    wrong = replace(study, all=[replace(study.best, score=0.5), study.all[1]])

    with pytest.raises(DataError, match=f"trial #{study.best.name} do not give its score"):
        certainty(wrong, resamples=2)


def test_predictions_that_are_not_there_are_named(tigers: Manifest, tmp_path: Path):
    study = study_of(tmp_path, tigers, [9.0, 12.0])
    path = tmp_path / "trials" / study.all[1].name / "predictions" / "val.coco.json"
    path.write_text("[{}]")

    with pytest.raises(DataError, match=f"trial #{study.all[1].name} cannot be compared"):
        certainty(study, resamples=2)
