"""What `hrnet-ray predict` found: COCO results, names of the keypoints, a table of each video."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.cli.prediction.csv_writer import VideoCsvWriter
from hrnet_ray.cli.prediction.inputs import FrameCount, InputFrame
from hrnet_ray.data.storage import open_storage_dir
from hrnet_ray.metrics.predictions import KeypointPredictions, compute_pose_scores
from hrnet_ray.skeletons import Skeleton

RESULTS_FILE, KEYPOINTS_FILE = "predictions.coco.json", "keypoints.json"
CATEGORY_ID = 1


class PredictionWriter:
    """Every pose that was found; a video's stand in its table at once, the others in `write`."""

    def __init__(self, out: Path, skeleton: Skeleton) -> None:
        self._out, self._skeleton = out, skeleton
        self._result_lines: list[str] = []  # as text: an hour of video has 100,000 of them
        self._csv_writer: VideoCsvWriter | None = None
        self.processed_count, self.missing_boxes_count = FrameCount(), FrameCount()

    def __len__(self) -> int:
        """Poses."""
        return len(self._result_lines)

    def add_frame(
        self, input_frame: InputFrame, boxes: np.ndarray, predictions: KeypointPredictions
    ) -> None:
        """Keep the poses that were found in the boxes [N, 5] of a shot.

        A pose's score is its own times that of its box, as `evaluate` has it.

        Raises:
            ClusterError: the table cannot be written.
        """
        self.processed_count.add_frame(input_frame)
        if not len(boxes):
            self.missing_boxes_count.add_frame(input_frame)
        points = np.concatenate(
            [predictions.image_xy.numpy(), predictions.scores.numpy()[..., None]], axis=-1
        )
        scores = compute_pose_scores(predictions).double().numpy() * boxes[:, 4]
        for keypoints, score in zip(points.astype(float), scores.tolist(), strict=True):
            self._result_lines.append(
                self._format_result(input_frame, keypoints.ravel().round(3).tolist(), score)
            )
        if input_frame.video_frame:
            self._get_csv_writer(input_frame).add_frame(
                input_frame.video_frame, boxes, points, scores
            )

    def write_files(self) -> None:
        """Write all that was found so far.

        Raises:
            ClusterError: it cannot be written.
        """
        folder = open_storage_dir(self._out, "--out")
        try:
            folder.write_bytes(RESULTS_FILE, f"[{', '.join(self._result_lines)}]".encode())
            names = {"categories": [_build_category(self._skeleton)]}
            folder.write_bytes(KEYPOINTS_FILE, json.dumps(names).encode())
        finally:
            if self._csv_writer:
                self._csv_writer.close()

    def _format_result(self, input_frame: InputFrame, keypoints: list[float], score: float) -> str:
        frame = input_frame.video_frame
        when = {"frame": frame.index, "seconds": round(frame.time_s, 6)} if frame else {}
        result = {
            "image_id": input_frame.name,
            "category_id": CATEGORY_ID,
            "id": len(self._result_lines) + 1,
            "keypoints": keypoints,
            "score": score,
            **when,
        }
        return json.dumps(result)

    def _get_csv_writer(self, input_frame: InputFrame) -> VideoCsvWriter:
        path = self._out / f"{input_frame.relative_path}.csv"
        if self._csv_writer is None or self._csv_writer.path != path:
            if self._csv_writer:
                self._csv_writer.close()
            self._csv_writer = VideoCsvWriter(path, self._skeleton)
        return self._csv_writer


def _build_category(skeleton: Skeleton) -> Mapping[str, Any]:
    place = {name: at for at, name in enumerate(skeleton.keypoints, 1)}  # COCO counts from 1
    return {
        "id": CATEGORY_ID,
        "name": skeleton.name,
        "keypoints": list(skeleton.keypoints),
        "skeleton": [[place[one], place[other]] for one, other in skeleton.bones],
    }
