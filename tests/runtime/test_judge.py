"""The best model is kept, even when there was no room for it at first."""

import pytest
import torch

from hrnet_ray.inference.model_folder import load_model
from hrnet_ray.learning.checkpoint import Progress
from hrnet_ray.learning.loop import Predictions
from hrnet_ray.runtime import judge as room
from hrnet_ray.runtime.judge import Judge
from hrnet_ray.runtime.recipes import build_model
from hrnet_ray.runtime.records import read_faults


@pytest.fixture
def found(tiny, tigers, tmp_path) -> Predictions:
    """Every keypoint exactly where it is."""
    truth = Judge(tiny, tigers, tmp_path).truth
    xy = torch.tensor(truth["image_xy"]).float()
    return Predictions(torch.tensor(truth["id"]), xy, torch.ones(xy.shape[:2]))


def test_a_best_model_that_did_not_fit_is_written_at_the_next_validation(
    tiny, tigers, tmp_path, found, monkeypatch
):
    judge, model = Judge(tiny, tigers, tmp_path), build_model(tiny, tigers)
    best = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(room, "save_model", full)
        done, figures = judge.judge(found, model, epoch=0, done=Progress(epoch=-1))

    assert done == Progress(epoch=-1)  # a run that went on from here would find it again
    assert figures["val/best.OKS_AP"] == figures["val/OKS_AP"] > 0.9
    assert read_faults(tmp_path) == ["not written: the best model (No space left on device)"]
    with torch.no_grad():
        model.conv1.weight.add_(1)
    worse = Predictions(found.ids, found.image_xy + 500, found.scores)

    done, figures = judge.judge(worse, model, epoch=1, done=done)

    assert (done.best_epoch, done.best) == (0, figures["val/best.OKS_AP"])
    kept, spec = load_model(tmp_path / "model")
    assert all(torch.equal(weight, best[name]) for name, weight in kept.state_dict().items())
    assert spec.scores["OKS_AP"] == done.best


def test_a_net_that_came_to_no_number_scores_nothing(tiny, tigers, tmp_path, found):
    judge, model = Judge(tiny, tigers, tmp_path), build_model(tiny, tigers)
    nowhere = Predictions(found.ids, found.image_xy * torch.nan, found.scores * torch.inf)

    _, figures = judge.judge(nowhere, model, epoch=0, done=Progress(epoch=-1))

    assert figures["val/OKS_AP"] == judge.last == 0.0
