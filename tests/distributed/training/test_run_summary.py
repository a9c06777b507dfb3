"""Test which recorded epoch counts as the outcome of a run."""

from math import inf, nan
from pathlib import Path

import pytest

from hrnet_ray.distributed.training.run_summary import print_constant_score_note, select_best_epoch
from hrnet_ray.errors import TrainingDivergedError

RUN = Path("runs/atrw/w32")


def make_epochs(*scores: float | None, metric: str = "val/OKS_AP", last_loss: float = 0.5) -> list[dict]:
    """Make the metrics of an epoch per score, from epoch 1; None is an epoch without validation."""
    epochs = [{"epoch": at, "train/loss": 0.5} | ({} if s is None else {metric: s}) for at, s in enumerate(scores, 1)]
    epochs[-1]["train/loss"] = last_loss
    return epochs


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.2, 0.7, 0.4], 2),
        ([0.3, 0.6, 0.6], 3),  # the later of equal ones
        ([None, 0.1, None, 0.2], 4),
        ([0.1, nan], 1),
        ([-1.0], 1),  # COCO's AP without ground truth
    ],
)
def test_the_epoch_with_the_highest_score_is_the_best(scores: list[float | None], best: int):
    primary, epoch = select_best_epoch(make_epochs(*scores), folder=RUN, lr=1e-3)

    assert (primary, epoch["epoch"]) == ("OKS_AP", best)


def test_of_equal_scores_the_lowest_error_is_the_best():
    epochs = make_epochs(0.0, 0.0, 0.0)
    for epoch, epe_px in zip(epochs, (60.0, 40.0, 50.0), strict=True):
        epoch["val/EPE_px"] = epe_px

    assert select_best_epoch(epochs, folder=RUN, lr=1e-3)[1]["epoch"] == 2


@pytest.mark.parametrize(
    ("scores", "note"),
    [
        ([0.0, None, 0.0], "note: OKS_AP is 0.000 after every epoch"),
        ([1.0, 1.0], "too easy or too small"),
        ([0.0, 0.1], ""),
        ([0.0], ""),
    ],
)
def test_a_score_that_never_changed_is_noted(scores: list[float | None], note: str, capsys: pytest.CaptureFixture[str]):
    print_constant_score_note(make_epochs(*scores), "OKS_AP")

    printed = capsys.readouterr().out
    assert note in printed if note else not printed


def test_the_primary_metric_is_oks_ap_or_pckh():
    pckh = make_epochs(0.3, metric="val/PCKh_0.5")

    assert select_best_epoch(pckh, folder=RUN, lr=1e-3)[0] == "PCKh_0.5"
    assert select_best_epoch([pckh[0] | {"val/OKS_AP": 0.2}], folder=RUN, lr=1e-3)[0] == "OKS_AP"


@pytest.mark.parametrize("loss", [nan, inf])
def test_a_run_whose_last_loss_is_not_finite_diverged(loss: float):
    with pytest.raises(TrainingDivergedError) as diverged:
        select_best_epoch(make_epochs(0.9, 0.8, last_loss=loss), folder=RUN, lr=0.25)

    assert diverged.value.what == f"training diverged: train/loss is {loss}"
    assert diverged.value.where == "runs/atrw/w32: epoch 2"
    assert diverged.value.fix == "lower --optim.lr (was 0.25), and choose another --name"


@pytest.mark.parametrize("epochs", [[], make_epochs(None), make_epochs(nan, nan)])
def test_a_run_without_a_score_is_refused(epochs: list[dict]):
    with pytest.raises(TrainingDivergedError) as ended:
        select_best_epoch(epochs, folder=RUN, lr=1e-3)

    assert ended.value.what == "training ended without a score"
    assert ended.value.where == f"runs/atrw/w32/metrics.jsonl: {len(epochs)} epochs"
