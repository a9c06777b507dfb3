"""MPII table of the published predictions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hrnet_ray.metrics.keypoint_metrics import PCKh, pckh
from hrnet_ray.metrics.pckh_table import PCKH_TABLE_COLUMNS, compute_mpii_pckh_table
from hrnet_ray.skeletons import ATRW, COCO, MPII

GOLDEN = Path(__file__).resolve().parents[1] / "parity" / "golden"


def compute_golden_pckh(threshold: float) -> PCKh:
    with np.load(GOLDEN / "pckh_mpii.npz") as golden:
        boxes = golden["headboxes_src"]
        return pckh(
            torch.from_numpy(golden["predictions"] + 1),  # the .mat counts pixels from 1
            torch.from_numpy(golden["pos_gt_src"].transpose(2, 0, 1)),
            torch.from_numpy(golden["jnt_missing"].T == 0),
            torch.from_numpy(0.6 * np.linalg.norm(boxes[1] - boxes[0], axis=0)),
            threshold=threshold,
        )


def test_mpii_table_equals_the_published_table():
    published = json.loads((GOLDEN / "pckh_mpii.json").read_text())

    table = compute_mpii_pckh_table(compute_golden_pckh(0.5), compute_golden_pckh(0.11), MPII)

    assert table is not None
    assert list(table) == [*PCKH_TABLE_COLUMNS, "Mean", "Mean@0.1"]
    assert table == pytest.approx({name: published[name] for name in table}, abs=1e-6)
    assert published.keys() == table.keys()


@pytest.mark.parametrize("skeleton", [ATRW, COCO])
def test_other_skeletons_have_no_mpii_table(skeleton):
    score = PCKh(torch.ones(len(skeleton)), torch.ones(len(skeleton)))

    assert compute_mpii_pckh_table(score, score, skeleton) is None
