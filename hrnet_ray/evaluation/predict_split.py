"""Rows of a data set to poses, shard by shard, without Ray: what an evaluation looks at.

Each row (or each box of a detector) becomes one crop and one pose. Rows whose images rotted since
they were prepared are left out by name, of the truth as well.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from joblib import cpu_count

from hrnet_ray.data import records
from hrnet_ray.data.batch import EvalBatch, to_eval_batch
from hrnet_ray.data.manifest import DatasetManifest, open_shard
from hrnet_ray.data.shards import ProgressCallback
from hrnet_ray.errors import DataError
from hrnet_ray.evaluation.ground_truth import GroundTruth
from hrnet_ray.inference.model_package import ModelSpec
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.metrics.detections import DetectedBoxes
from hrnet_ray.metrics.oks import DetectedPoses
from hrnet_ray.metrics.predictions import KeypointPredictions, compute_pose_scores
from hrnet_ray.metrics.validation import match_rows_by_id
from hrnet_ray.pose.geometry import SCALE_UNIT_PX, box_to_center_scale
from hrnet_ray.utils.prefetch import prefetch_items

BATCH_SIZE = 64
DECODE_THREADS = 8  # threads; OpenCV lets go of the GIL


@dataclass(frozen=True)
class SplitPoses:
    """What a model found in the readable rows of a split."""

    poses: DetectedPoses
    ground_truth: GroundTruth
    """The readable rows; with true boxes, pose n is that of row n."""
    skipped_rows: list[tuple[int, str]]
    """Row id and file name of those whose image is not what was prepared."""


@dataclass(frozen=True)
class WorkPartition:
    """One of `of` parts of a split, for who shares the work. Any number finds the same."""

    index: int = 0
    num_parts: int = 1

    def has_item(self, item_index: int) -> bool:
        """Whether a row group, or a batch of boxes, is this part's."""
        return item_index % self.num_parts == self.index


WHOLE_SPLIT = WorkPartition()


@dataclass(frozen=True)
class PartialPredictions:
    """What a model found in a part of a split."""

    predictions: KeypointPredictions
    """By row id, or with given boxes by the number of the box."""
    unread_ids: list[int]
    """Such ids, of those whose images could not be read."""
    intact_images: np.ndarray | None = None
    """With given boxes, bool [P]: images that a row still holds as they were prepared."""

    @classmethod
    def concat_parts(cls, parts: Sequence["PartialPredictions"]) -> "PartialPredictions":
        """Concatenate all parts, in any order."""
        some = [part for part in parts if len(part.predictions.ids)]
        predictions = (
            KeypointPredictions.concat_parts([part.predictions for part in some]) if some else parts[0].predictions
        )
        unread = sorted(id for part in parts for id in part.unread_ids)
        return cls(predictions, unread, parts[0].intact_images)


def predict_split(
    predictor: Predictor,
    manifest: DatasetManifest,
    split: str,
    ground_truth: GroundTruth,
    *,
    detections: DetectedBoxes | None = None,
    progress: ProgressCallback = lambda done, total: None,
    batch_size: int = BATCH_SIZE,
) -> SplitPoses:
    """Predict a pose in each row's true box, or in each of a detector's `boxes`.

    Raises:
        DataError: a shard is damaged, or no row is readable.
    """
    found = predict_partition(
        predictor,
        manifest,
        split,
        ground_truth,
        detections=detections,
        progress=progress,
        batch_size=batch_size,
    )
    return finalize_predictions(found, manifest, split, ground_truth, detections=detections, spec=predictor.spec)


def predict_partition(
    predictor: Predictor,
    manifest: DatasetManifest,
    split: str,
    ground_truth: GroundTruth,
    *,
    detections: DetectedBoxes | None = None,
    partition: WorkPartition = WHOLE_SPLIT,
    progress: ProgressCallback = lambda done, total: None,
    batch_size: int = BATCH_SIZE,
) -> PartialPredictions:
    """Predict a part; batches are those of the whole, so that every pose is the same to the bit.

    Raises:
        DataError: a shard is damaged.
    """
    eyes = _PartitionPredictor(predictor, manifest, split, batch_size, progress, partition)
    if detections is None:
        return eyes.predict_tables(eyes.iter_tables(partition), total_rows=len(ground_truth))
    intact = np.zeros(len(ground_truth.image_names), bool)
    batches = enumerate(_iter_detection_tables(eyes, ground_truth, detections, intact))
    mine = (table for number, table in batches if partition.has_item(number))
    return replace(eyes.predict_tables(mine, total_rows=len(detections.score)), intact_images=intact)


def finalize_predictions(
    partial: PartialPredictions,
    manifest: DatasetManifest,
    split: str,
    ground_truth: GroundTruth,
    *,
    detections: DetectedBoxes | None,
    spec: ModelSpec,
) -> SplitPoses:
    """Give the found poses to their images, and leave out by name what could not be read.

    Raises:
        DataError: no row is readable.
    """
    readable = _find_readable_rows(partial, ground_truth, detections)
    skipped = [
        (int(ground_truth.columns["id"][at]), ground_truth.row_image_names[at]) for at in np.flatnonzero(~readable)
    ]
    if not readable.any():
        raise DataError(
            "no image that is what was prepared",
            f"{split} of {manifest.root}: {len(skipped):,} rows",
            "copy the data set again, or prepare it again",
        )
    used = ground_truth.select_rows(readable) if skipped else ground_truth
    if detections is None:
        return SplitPoses(_assign_poses_to_rows(partial.predictions, used, spec), used, skipped)
    return SplitPoses(
        _assign_poses_to_detections(partial.predictions, ground_truth, used, detections, spec),
        used,
        skipped,
    )


def _find_readable_rows(
    partial: PartialPredictions, ground_truth: GroundTruth, detections: DetectedBoxes | None
) -> np.ndarray:
    """Which rows' images could be read: bool [N]."""
    if detections is None or partial.intact_images is None:
        return ~np.isin(ground_truth.columns["id"], partial.unread_ids)
    intact = partial.intact_images.copy()
    intact[detections.image_index[partial.unread_ids]] = False
    return intact[ground_truth.columns["image_index"]]


@dataclass(frozen=True)
class _PartitionPredictor:
    """How rows are read and looked at."""

    predictor: Predictor
    manifest: DatasetManifest
    split: str
    batch_size: int
    progress: ProgressCallback
    partition: WorkPartition

    def iter_tables(self, partition: WorkPartition = WHOLE_SPLIT) -> Iterator[pa.Table]:
        """A part's rows in their order, each with whether its image is intact."""
        number = 0
        for shard in self.manifest.get_shards(self.split):
            with open_shard(self.manifest, shard) as file:
                for group in range(file.num_row_groups):
                    number += 1
                    if not partition.has_item(number - 1):
                        continue
                    for batch in file.iter_batches(self.batch_size, row_groups=[group]):
                        table = pa.Table.from_batches([batch])
                        table.validate(full=True)
                        yield records.add_intact_column(table)

    def predict_tables(self, tables: Iterable[pa.Table], *, total_rows: int) -> PartialPredictions:
        """Predictions by row id, and the ids of rows that could not be read."""
        unread: list[int] = []
        with ThreadPoolExecutor(min(DECODE_THREADS, cpu_count())) as pool:
            crops = self._iter_crop_batches(tables, pool, unread, total_rows)
            return PartialPredictions(self.predictor.predict_crop_batches(prefetch_items(crops)), unread)

    def _iter_crop_batches(
        self,
        tables: Iterable[pa.Table],
        pool: ThreadPoolExecutor,
        unread_ids: list[int],
        total_rows: int,
    ) -> Iterator[EvalBatch]:
        spec, done = self.predictor.spec, 0
        for table in tables:
            arrays = records.decode_eval_batch(
                table, input_hw=spec.input_hw, padding=spec.padding, map_function=pool.map
            )
            kept = arrays["readable"]
            unread_ids += arrays["id"][~kept].tolist()
            if kept.any():
                arrays = {name: column[kept] for name, column in arrays.items()}
                yield to_eval_batch(arrays, self.predictor.device)
            done += table.num_rows
            self.progress(done, total_rows)
        if done < total_rows and self.partition == WHOLE_SPLIT:  # boxes in images that could not be read
            self.progress(total_rows, total_rows)


def _iter_detection_tables(
    partition_predictor: _PartitionPredictor,
    ground_truth: GroundTruth,
    detections: DetectedBoxes,
    intact_images: np.ndarray,
) -> Iterator[pa.Table]:
    """A row for each box: its image from the first intact row of the same image.

    Records it in `intact`, bool [P]; every worker reads all rows for that.
    """
    ids, pictures = (ground_truth.columns[name].tolist() for name in ("id", "image_index"))
    picture_of = dict(zip(ids, pictures, strict=True))
    ends = np.searchsorted(detections.image_index, np.arange(len(intact_images) + 1))
    for table in partition_predictor.iter_tables():
        pairs: list[tuple[int, int]] = []  # row of this table, box
        columns = (table[name].to_pylist() for name in ("id", "intact"))
        for at, (row, ok) in enumerate(zip(*columns, strict=True)):
            place = picture_of[row]
            if ok and not intact_images[place]:
                intact_images[place] = True
                pairs += [(at, box) for box in range(ends[place], ends[place + 1])]
        cuts = [*range(0, len(pairs), partition_predictor.batch_size), len(pairs)]
        for first, last in pairwise(cuts):
            yield _replace_row_boxes(table, pairs[first:last], detections)


def _replace_row_boxes(table: pa.Table, row_box_pairs: list[tuple[int, int]], detections: DetectedBoxes) -> pa.Table:
    at, which = (list(numbers) for numbers in zip(*row_box_pairs, strict=True))
    part = table.take(at)
    for name, values in (("id", which), ("box_xywh", detections.box_xywh[which].tolist())):
        column = part.schema.get_field_index(name)
        field = part.schema.field(column)
        part = part.set_column(column, field, pa.array(values, field.type))
    return part


def _assign_poses_to_rows(
    predictions: KeypointPredictions, readable_truth: GroundTruth, spec: ModelSpec
) -> DetectedPoses:
    predictions, truth = match_rows_by_id(predictions, readable_truth.columns)  # each row once, or an error
    named = {name: truth[name] for name in ("image_index", "image_id", "category_id")}
    return replace(_build_unassigned_poses(predictions, truth["box_xywh"], spec), **named)


def _assign_poses_to_detections(
    predictions: KeypointPredictions,
    ground_truth: GroundTruth,
    readable_truth: GroundTruth,
    detections: DetectedBoxes,
    spec: ModelSpec,
) -> DetectedPoses:
    box = predictions.ids.numpy()
    poses = _build_unassigned_poses(predictions, detections.box_xywh[box], spec)
    now = {name: at for at, name in enumerate(readable_truth.image_names)}
    place = np.array([now.get(name, -1) for name in ground_truth.image_names])[detections.image_index[box]]
    _, first = np.unique(readable_truth.columns["image_index"], return_index=True)
    poses = replace(
        poses,
        image_index=place,
        image_id=readable_truth.columns["image_id"][first][place],
        category_id=detections.category_id[box],
        score=poses.score * detections.score[box],
    )
    return poses.select_poses(place >= 0)


def _build_unassigned_poses(predictions: KeypointPredictions, box_xywh: np.ndarray, spec: ModelSpec) -> DetectedPoses:
    """Poses as the model found them, not yet assigned to instances."""
    nobody = np.zeros(len(predictions.ids), np.int64)
    return DetectedPoses(
        image_index=nobody,
        image_id=nobody,
        category_id=nobody,
        image_xy=predictions.image_xy.double().numpy(),
        keypoint_scores=predictions.scores.double().numpy(),
        score=compute_pose_scores(predictions).double().numpy(),
        area=compute_padded_areas(box_xywh, spec),
    )


def compute_padded_areas(box_xywh: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Square pixels of what a model was shown of each box: float64 [N]."""
    boxes = torch.tensor(box_xywh, dtype=torch.float64).reshape(-1, 4)
    _, scale_wh = box_to_center_scale(boxes, input_hw=spec.input_hw, padding=spec.padding)
    return (scale_wh * SCALE_UNIT_PX).prod(-1).numpy()


def load_crops(manifest: DatasetManifest, split: str, row_ids: np.ndarray, spec: ModelSpec) -> records.Arrays:
    """Crops of some rows, by their ids, in that order; only row groups that hold them are read."""
    parts = []
    for shard in manifest.get_shards(split):
        with open_shard(manifest, shard) as file:
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["id"])["id"].to_numpy()
                if (here := np.flatnonzero(np.isin(ids, row_ids))).size:
                    parts.append(file.read_row_group(group).take(here))
    table = pa.concat_tables(parts)
    place = {row: at for at, row in enumerate(table["id"].to_pylist())}
    table = table.take([place[row] for row in row_ids.tolist()])
    return records.decode_eval_batch(table, input_hw=spec.input_hw, padding=spec.padding)
