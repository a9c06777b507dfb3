"""Output files of `hrnet-ray predict`: COCO results, keypoint names and a CSV per video."""

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
    """Collects the poses. A video's CSV is written frame by frame, the COCO results at the end."""

    def __init__(self, out: Path, skeleton: Skeleton) -> None:
        self._out, self._skeleton = out, skeleton
        self._result_lines: list[str] = []  # as JSON, because an hour of video has 100,000 of them
        self._csv_writer: VideoCsvWriter | None = None
        self.processed_count, self.missing_boxes_count = FrameCount(), FrameCount()

    def __len__(self) -> int:
        """Return the number of poses."""
        return len(self._result_lines)

    def add_frame(self, input_frame: InputFrame, boxes: np.ndarray, predictions: KeypointPredictions) -> None:
        """Add the poses in the boxes [N, 5] of an image or video frame.

        The score of a pose is multiplied by the score of its box, as in `evaluate`.

        Raises:
            ClusterError: the CSV cannot be written.
        """
        self.processed_count.add_frame(input_frame)
        if not len(boxes):
            self.missing_boxes_count.add_frame(input_frame)
        points = np.concatenate([predictions.image_xy.numpy(), predictions.scores.numpy()[..., None]], axis=-1)
        scores = compute_pose_scores(predictions).double().numpy() * boxes[:, 4]
        for keypoints, score in zip(points.astype(float), scores.tolist(), strict=True):
            self._result_lines.append(self._format_result(input_frame, keypoints.ravel().round(3).tolist(), score))
        if input_frame.video_frame:
            self._get_csv_writer(input_frame).add_frame(input_frame.video_frame, boxes, points, scores)

    def write_files(self) -> None:
        """Write the COCO results and the keypoint names, and close the CSV.

        Raises:
            ClusterError: a file cannot be written.
        """
        folder = open_storage_dir(self._out, "--out")
        try:
            folder.write_bytes(RESULTS_FILE, f"[{', '.join(self._result_lines)}]".encode())
            categories = {"categories": [_build_category(self._skeleton)]}
            folder.write_bytes(KEYPOINTS_FILE, json.dumps(categories).encode())
        finally:
            if self._csv_writer:
                self._csv_writer.close()

    def _format_result(self, input_frame: InputFrame, keypoints: list[float], score: float) -> str:
        frame = input_frame.video_frame
        time = {"frame": frame.index, "seconds": round(frame.time_s, 6)} if frame else {}
        result = {
            "image_id": input_frame.name,
            "category_id": CATEGORY_ID,
            "id": len(self._result_lines) + 1,
            "keypoints": keypoints,
            "score": score,
            **time,
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
    number = {name: index for index, name in enumerate(skeleton.keypoints, 1)}  # COCO counts from 1
    return {
        "id": CATEGORY_ID,
        "name": skeleton.name,
        "keypoints": list(skeleton.keypoints),
        "skeleton": [[number[start], number[end]] for start, end in skeleton.bones],
    }
