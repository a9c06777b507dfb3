"""What two workers tell each other is what one would have known alone."""

from pathlib import Path

import torch
from torch import nn

from hrnet_ray.metrics.predictions import KeypointPredictions, all_gather_predictions
from hrnet_ray.utils.collectives import (
    all_reduce_mean,
    gather_objects,
    get_world_size,
    sync_buffers_from_rank0,
)
from tests.utils.two_workers import together


def predictions(*ids: int) -> KeypointPredictions:
    rows = torch.tensor(ids, dtype=torch.int64)
    xy = torch.stack([rows * 1.5, rows * -2.0], dim=-1)
    image_xy, scores = xy[:, None].expand(-1, 3, 2).contiguous(), xy[:, :1].expand(-1, 3) / 8
    return KeypointPredictions(rows, image_xy, scores, losses=rows / 4)


def work(rank: int, folder: Path) -> None:
    """What each of two processes does."""
    mine = [predictions(5, 0), predictions(3)][rank]
    norm = nn.BatchNorm2d(2)
    norm.running_mean = torch.full((2,), float(rank + 1))
    norm.num_batches_tracked = torch.tensor(rank + 10)
    sync_buffers_from_rank0(norm)
    loss = torch.tensor(float(rank))
    known = {
        "world": get_world_size(),
        "gathered": vars(all_gather_predictions(mine)),
        "mean": all_reduce_mean(loss),
        "loss": loss,
        "everybody": gather_objects(2**40 + rank),
        "running_mean": norm.running_mean,
        "tracked": norm.num_batches_tracked,
    }
    torch.save(known, folder / f"{rank}.pt")


def test_two_workers_know_what_one_alone_would(tmp_path: Path):
    together(work, tmp_path)

    alone = vars(KeypointPredictions.concat_parts([predictions(0, 3, 5)]))
    for rank in range(2):
        known = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert known["world"] == 2
        assert all(torch.equal(known["gathered"][name], alone[name]) for name in alone)
        assert known["mean"] == 0.5
        assert known["loss"] == rank  # the worker's own number is left alone
        assert known["everybody"] == [2**40, 2**40 + 1]
        assert known["running_mean"].tolist() == [1.0, 1.0]
        assert known["tracked"] == 10


def test_a_worker_alone_needs_no_process_group():
    norm = nn.BatchNorm2d(2)
    norm.running_mean = torch.tensor([3.0, 4.0])

    sync_buffers_from_rank0(norm)

    mine = predictions(2, 7)
    assert get_world_size() == 1
    assert all(torch.equal(v, vars(mine)[k]) for k, v in vars(all_gather_predictions(mine)).items())
    assert all_reduce_mean(torch.tensor(2.5)) == 2.5
    assert gather_objects(12) == [12]
    assert norm.running_mean.tolist() == [3.0, 4.0]
