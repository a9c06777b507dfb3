"""Predicted keypoints of a set of rows, with their scores."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hrnet_ray.utils.collectives import gather_objects

KEYPOINT_SCORE_THRESHOLD = 0.2
"""Heatmap value above which a keypoint counts in its pose's score, as in the published code."""


@dataclass(frozen=True)
class KeypointPredictions:
    """Keypoints of N rows with their row ids, in any order."""

    ids: Int[Tensor, " N"]
    image_xy: Float[Tensor, "N K 2"]
    scores: Float[Tensor, "N K"]
    losses: Float[Tensor, " N"] | None = None
    """Training loss per row, if a target was given."""

    @classmethod
    def make_empty(cls, num_keypoints: int = 0) -> "KeypointPredictions":
        """Build predictions with zero rows."""
        ids = torch.zeros(0, dtype=torch.int64)
        return cls(ids, torch.zeros(0, num_keypoints, 2), torch.zeros(0, num_keypoints))

    @classmethod
    def concat_parts(cls, parts: Iterable["KeypointPredictions"]) -> "KeypointPredictions":
        """Concatenate parts and sort by row id; parts without rows are left out."""
        parts = [part for part in parts if len(part.ids)]
        if not parts:
            return cls.make_empty()
        ids = torch.cat([part.ids for part in parts])
        order = ids.argsort()
        losses = [part.losses for part in parts if part.losses is not None]
        return cls(
            ids[order],
            torch.cat([part.image_xy for part in parts])[order],
            torch.cat([part.scores for part in parts])[order],
            torch.cat(losses)[order] if len(losses) == len(parts) else None,
        )


def compute_pose_scores(predictions: KeypointPredictions) -> torch.Tensor:
    """Compute the mean score of each pose's confident keypoints, 0 without any: float [N]."""
    confident = predictions.scores > KEYPOINT_SCORE_THRESHOLD
    return (predictions.scores * confident).sum(-1) / confident.sum(-1).clamp(min=1)


def all_gather_predictions(local_predictions: KeypointPredictions) -> KeypointPredictions:
    """Gather the predictions of all ranks on every rank, sorted by row id."""
    return KeypointPredictions.concat_parts(gather_objects(local_predictions))
