"""What is said and kept of a training that diverged."""

import json
from pathlib import Path

from hrnet_ray.runs.event_log import read_events
from hrnet_ray.training.divergence import DivergenceReport
from hrnet_ray.training.nan_guard import DivergenceDetected

MET = [[4, 9], [12, 3], [7, 8], [1, 0]]


def test_the_rows_of_the_steps_whose_loss_was_no_number_are_kept_and_named(tmp_path: Path):
    trouble = DivergenceDetected(
        "2 steps were bad", skipped_steps=[1, 2], local_nonfinite_steps=[2]
    )

    blame = DivergenceReport.collect_from_workers(trouble, MET, epoch=5)
    blame.save_json(tmp_path)
    blame.log_rollback(tmp_path, last_good_epoch=4)
    error = blame.to_error(tmp_path, lr=0.25)

    assert json.loads((tmp_path / "debug" / "nonfinite_batches.json").read_text()) == {
        "what": "2 steps were bad",
        "epoch": 5,
        "split": "train",
        "steps": [{"step": 1, "ids": [12, 3]}, {"step": 2, "ids": [7, 8]}],
    }
    assert read_events(tmp_path) == [
        "epoch 6: 2 steps were bad; going on from the last checkpoint at 0.5 times the learning "
        "rate (training rows 12, 3, 7, 8: debug/nonfinite_batches.json)"
    ]
    assert str(error).splitlines() == [
        "the training diverged, at 0.5 times its learning rate too: 2 steps were bad",
        f"  {tmp_path}: epoch 6, training rows 12, 3, 7, 8: debug/nonfinite_batches.json",
        "  fix: look at these rows with `hrnet-ray check`, or lower --optim.lr (it was 0.25) and "
        "give the run another --name",
    ]
    assert error.exit_code == 5


def test_weights_that_are_no_numbers_have_no_rows_to_name(tmp_path: Path):
    blame = DivergenceReport.collect_from_workers(
        DivergenceDetected("weights are no numbers", skipped_steps=[], local_nonfinite_steps=[]),
        MET,
        epoch=0,
    )

    blame.log_rollback(tmp_path, last_good_epoch=-1)

    assert read_events(tmp_path) == [
        "epoch 1: weights are no numbers; going on from the start at 0.5 times the learning rate "
        "(debug/nonfinite_batches.json)"
    ]
