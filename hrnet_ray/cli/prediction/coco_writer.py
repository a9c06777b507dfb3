"""What `hrnet-ray predict` found: COCO results, names of the keypoints, a table of each video."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.cli.prediction.csv_writer import Table
from hrnet_ray.cli.prediction.inputs import Count, Shot
from hrnet_ray.data.storage import open_folder
from hrnet_ray.metrics.predictions import Predictions, instance_scores
from hrnet_ray.skeletons import Skeleton

RESULTS, KEYPOINTS = "predictions.coco.json", "keypoints.json"
CATEGORY = 1


class Results:
    """Every pose that was found; a video's stand in its table at once, the others in `write`."""

    def __init__(self, out: Path, skeleton: Skeleton) -> None:
        self._out, self._skeleton = out, skeleton
        self._entries: list[str] = []  # as text: an hour of video has 100,000 of them
        self._table: Table | None = None
        self.looked_at, self.without_boxes = Count(), Count()

    def __len__(self) -> int:
        """Poses."""
        return len(self._entries)

    def add(self, shot: Shot, boxes: np.ndarray, found: Predictions) -> None:
        """Keep the poses that were found in the boxes [N, 5] of a shot.

        A pose's score is its own times that of its box, as `evaluate` has it.

        Raises:
            ClusterError: the table cannot be written.
        """
        self.looked_at.add(shot)
        if not len(boxes):
            self.without_boxes.add(shot)
        points = np.concatenate([found.image_xy.numpy(), found.scores.numpy()[..., None]], axis=-1)
        scores = instance_scores(found).double().numpy() * boxes[:, 4]
        for keypoints, score in zip(points.astype(float), scores.tolist(), strict=True):
            self._entries.append(self._entry(shot, keypoints.ravel().round(3).tolist(), score))
        if shot.frame:
            self._table_of(shot).add(shot.frame, boxes, points, scores)

    def write(self) -> None:
        """Write all that was found so far.

        Raises:
            ClusterError: it cannot be written.
        """
        folder = open_folder(self._out, "--out")
        try:
            folder.write_bytes(RESULTS, f"[{', '.join(self._entries)}]".encode())
            names = {"categories": [_category(self._skeleton)]}
            folder.write_bytes(KEYPOINTS, json.dumps(names).encode())
        finally:
            if self._table:
                self._table.close()

    def _entry(self, shot: Shot, keypoints: list[float], score: float) -> str:
        frame = shot.frame
        when = {"frame": frame.number, "seconds": round(frame.seconds, 6)} if frame else {}
        result = {
            "image_id": shot.name,
            "category_id": CATEGORY,
            "id": len(self._entries) + 1,
            "keypoints": keypoints,
            "score": score,
            **when,
        }
        return json.dumps(result)

    def _table_of(self, shot: Shot) -> Table:
        path = self._out / f"{shot.file}.csv"
        if self._table is None or self._table.path != path:
            if self._table:
                self._table.close()
            self._table = Table(path, self._skeleton)
        return self._table


def _category(skeleton: Skeleton) -> Mapping[str, Any]:
    place = {name: at for at, name in enumerate(skeleton.keypoints, 1)}  # COCO counts from 1
    return {
        "id": CATEGORY,
        "name": skeleton.name,
        "keypoints": list(skeleton.keypoints),
        "skeleton": [[place[one], place[other]] for one, other in skeleton.bones],
    }
