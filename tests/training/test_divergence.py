"""The report of a diverged training."""

import json
from pathlib import Path

from hrnet_ray.runs.event_log import read_events
from hrnet_ray.training.divergence import DivergenceReport
from hrnet_ray.training.nan_guard import DivergenceDetected

SEEN_IDS = [[4, 9], [12, 3], [7, 8], [1, 0]]


def test_the_rows_of_steps_with_a_nonfinite_loss_are_saved_and_named(tmp_path: Path):
    divergence = DivergenceDetected("2 steps were bad", skipped_steps=[1, 2], local_nonfinite_steps=[2])

    report = DivergenceReport.collect_from_workers(divergence, SEEN_IDS, epoch=6)
    report.save_json(tmp_path)
    report.log_rollback(tmp_path, last_good_epoch=5)
    error = report.to_error(tmp_path, lr=0.25)

    assert json.loads((tmp_path / "debug" / "nonfinite_batches.json").read_text()) == {
        "what": "2 steps were bad",
        "epoch": 6,
        "split": "train",
        "steps": [{"step": 1, "ids": [12, 3]}, {"step": 2, "ids": [7, 8]}],
    }
    assert read_events(tmp_path) == [
        "epoch 6: 2 steps were bad; resuming from the last checkpoint at 0.5 times the learning "
        "rate (training rows 12, 3, 7, 8: debug/nonfinite_batches.json)"
    ]
    assert str(error).splitlines() == [
        "training diverged again, at 0.5 times the learning rate: 2 steps were bad",
        f"  {tmp_path}: epoch 6, training rows 12, 3, 7, 8: debug/nonfinite_batches.json",
        "  fix: inspect these rows with `hrnet-ray check`, or lower --optim.lr (was 0.25) and choose another --name",
    ]
    assert error.exit_code == 5


def test_nonfinite_weights_are_reported_without_rows(tmp_path: Path):
    report = DivergenceReport.collect_from_workers(
        DivergenceDetected("weights are NaN", skipped_steps=[], local_nonfinite_steps=[]),
        SEEN_IDS,
        epoch=1,
    )

    report.log_rollback(tmp_path, last_good_epoch=0)

    assert read_events(tmp_path) == [
        "epoch 1: weights are NaN; resuming from the start at 0.5 times the learning rate "
        "(debug/nonfinite_batches.json)"
    ]
