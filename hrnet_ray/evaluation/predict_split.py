"""Predict the poses of a split, shard by shard, without Ray.

Each row, or each box of a detector, gives one crop and one pose. Rows with a corrupt image are
skipped, removed from the ground truth, and listed by name.
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
DECODE_THREADS = 8  # maximum number; OpenCV releases the GIL


@dataclass(frozen=True)
class SplitPoses:
    """Poses predicted in the readable rows of a split."""

    poses: DetectedPoses
    ground_truth: GroundTruth
    """Labels of the readable rows; with true boxes, pose n belongs to row n."""
    skipped_rows: list[tuple[int, str]]
    """Row id and file name of each row with a corrupt image."""


@dataclass(frozen=True)
class WorkPartition:
    """One of `num_parts` parts of a split. The predictions do not depend on the number of parts."""

    index: int = 0
    num_parts: int = 1

    def has_item(self, item_index: int) -> bool:
        """Return whether a row group, or a batch of boxes, belongs to this part."""
        return item_index % self.num_parts == self.index


WHOLE_SPLIT = WorkPartition()


@dataclass(frozen=True)
class PartialPredictions:
    """Predictions for a part of a split."""

    predictions: KeypointPredictions
    """Predictions by row id, or by box index with detected boxes."""
    unread_ids: list[int]
    """Row ids, or box indices, with an unreadable image."""
    intact_images: np.ndarray | None = None
    """With detected boxes, bool [P]: images with at least one intact row."""

    @classmethod
    def concat_parts(cls, parts: Sequence["PartialPredictions"]) -> "PartialPredictions":
        """Concatenate all parts, in any order."""
        nonempty = [part for part in parts if len(part.predictions.ids)]
        predictions = (
            KeypointPredictions.concat_parts([part.predictions for part in nonempty])
            if nonempty
            else parts[0].predictions
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
    """Predict a pose in the true box of each row, or in each detected box.

    Raises:
        DataError: a shard is damaged, or no row is readable.
    """
    predictions = predict_partition(
        predictor,
        manifest,
        split,
        ground_truth,
        detections=detections,
        progress=progress,
        batch_size=batch_size,
    )
    return finalize_predictions(predictions, manifest, split, ground_truth, detections=detections, spec=predictor.spec)


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
    """Predict a part of a split.

    Batches are those of the whole split, so poses are bitwise equal for any number of parts.

    Raises:
        DataError: a shard is damaged.
    """
    partition_predictor = _PartitionPredictor(predictor, manifest, split, batch_size, progress, partition)
    if detections is None:
        row_tables = partition_predictor.iter_tables(partition)
        return partition_predictor.predict_tables(row_tables, total_rows=len(ground_truth))
    intact = np.zeros(len(ground_truth.image_names), bool)
    batches = enumerate(_iter_detection_tables(partition_predictor, ground_truth, detections, intact))
    tables = (table for index, table in batches if partition.has_item(index))
    return replace(partition_predictor.predict_tables(tables, total_rows=len(detections.score)), intact_images=intact)


def finalize_predictions(
    partial: PartialPredictions,
    manifest: DatasetManifest,
    split: str,
    ground_truth: GroundTruth,
    *,
    detections: DetectedBoxes | None,
    spec: ModelSpec,
) -> SplitPoses:
    """Assign predicted poses to their images, and list unreadable rows by name.

    Raises:
        DataError: no row is readable.
    """
    readable = _find_readable_rows(partial, ground_truth, detections)
    skipped = [
        (int(ground_truth.columns["id"][at]), ground_truth.row_image_names[at]) for at in np.flatnonzero(~readable)
    ]
    if not readable.any():
        raise DataError(
            "all images are unreadable or have changed since prepare",
            f"{split} of {manifest.root}: {len(skipped):,} rows",
            "copy the dataset again, or prepare it again",
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
    """Return which rows have a readable image: bool [N]."""
    if detections is None or partial.intact_images is None:
        return ~np.isin(ground_truth.columns["id"], partial.unread_ids)
    intact = partial.intact_images.copy()
    intact[detections.image_index[partial.unread_ids]] = False
    return intact[ground_truth.columns["image_index"]]


@dataclass(frozen=True)
class _PartitionPredictor:
    """Reader and predictor of the rows of one partition."""

    predictor: Predictor
    manifest: DatasetManifest
    split: str
    batch_size: int
    progress: ProgressCallback
    partition: WorkPartition

    def iter_tables(self, partition: WorkPartition = WHOLE_SPLIT) -> Iterator[pa.Table]:
        """Yield the rows of a partition in order, with the column `intact`."""
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
        """Predict all rows of the tables, and collect the ids of unreadable rows."""
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
        spec, num_done = self.predictor.spec, 0
        for table in tables:
            arrays = records.decode_eval_batch(
                table, input_hw=spec.input_hw, padding=spec.padding, map_function=pool.map
            )
            readable = arrays["readable"]
            unread_ids += arrays["id"][~readable].tolist()
            if readable.any():
                arrays = {name: column[readable] for name, column in arrays.items()}
                yield to_eval_batch(arrays, self.predictor.device)
            num_done += table.num_rows
            self.progress(num_done, total_rows)
        if num_done < total_rows and self.partition == WHOLE_SPLIT:  # boxes in unreadable images are never yielded
            self.progress(total_rows, total_rows)


def _iter_detection_tables(
    partition_predictor: _PartitionPredictor,
    ground_truth: GroundTruth,
    detections: DetectedBoxes,
    intact_images: np.ndarray,
) -> Iterator[pa.Table]:
    """Yield one row per box, with the image from the first intact row of the same image.

    Marks these images in `intact_images`, bool [P]. Therefore every worker reads all rows.
    """
    ids, image_indices = (ground_truth.columns[name].tolist() for name in ("id", "image_index"))
    image_index_of = dict(zip(ids, image_indices, strict=True))
    ends = np.searchsorted(detections.image_index, np.arange(len(intact_images) + 1))
    for table in partition_predictor.iter_tables():
        pairs: list[tuple[int, int]] = []  # row of this table, box
        columns = (table[name].to_pylist() for name in ("id", "intact"))
        for index, (row_id, is_intact) in enumerate(zip(*columns, strict=True)):
            image_index = image_index_of[row_id]
            if is_intact and not intact_images[image_index]:
                intact_images[image_index] = True
                pairs += [(index, box) for box in range(ends[image_index], ends[image_index + 1])]
        cuts = [*range(0, len(pairs), partition_predictor.batch_size), len(pairs)]
        for first, last in pairwise(cuts):
            yield _replace_row_boxes(table, pairs[first:last], detections)


def _replace_row_boxes(table: pa.Table, row_box_pairs: list[tuple[int, int]], detections: DetectedBoxes) -> pa.Table:
    row_indices, box_indices = (list(numbers) for numbers in zip(*row_box_pairs, strict=True))
    rows = table.take(row_indices)
    for name, values in (("id", box_indices), ("box_xywh", detections.box_xywh[box_indices].tolist())):
        column = rows.schema.get_field_index(name)
        field = rows.schema.field(column)
        rows = rows.set_column(column, field, pa.array(values, field.type))
    return rows


def _assign_poses_to_rows(
    predictions: KeypointPredictions, readable_truth: GroundTruth, spec: ModelSpec
) -> DetectedPoses:
    predictions, truth = match_rows_by_id(predictions, readable_truth.columns)  # raises if a row is missing or doubled
    columns = {name: truth[name] for name in ("image_index", "image_id", "category_id")}
    return replace(_build_unassigned_poses(predictions, truth["box_xywh"], spec), **columns)


def _assign_poses_to_detections(
    predictions: KeypointPredictions,
    ground_truth: GroundTruth,
    readable_truth: GroundTruth,
    detections: DetectedBoxes,
    spec: ModelSpec,
) -> DetectedPoses:
    box = predictions.ids.numpy()
    poses = _build_unassigned_poses(predictions, detections.box_xywh[box], spec)
    index_of = {name: index for index, name in enumerate(readable_truth.image_names)}  # image -> new image index
    image_index = np.array([index_of.get(name, -1) for name in ground_truth.image_names])[detections.image_index[box]]
    _, first = np.unique(readable_truth.columns["image_index"], return_index=True)
    poses = replace(
        poses,
        image_index=image_index,
        image_id=readable_truth.columns["image_id"][first][image_index],
        category_id=detections.category_id[box],
        score=poses.score * detections.score[box],
    )
    return poses.select_poses(image_index >= 0)


def _build_unassigned_poses(predictions: KeypointPredictions, box_xywh: np.ndarray, spec: ModelSpec) -> DetectedPoses:
    """Convert predictions to poses without image and category."""
    zeros = np.zeros(len(predictions.ids), np.int64)
    return DetectedPoses(
        image_index=zeros,
        image_id=zeros,
        category_id=zeros,
        image_xy=predictions.image_xy.double().numpy(),
        keypoint_scores=predictions.scores.double().numpy(),
        score=compute_pose_scores(predictions).double().numpy(),
        area=compute_padded_areas(box_xywh, spec),
    )


def compute_padded_areas(box_xywh: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Compute the area of each padded box in square pixels: float64 [N]."""
    boxes = torch.tensor(box_xywh, dtype=torch.float64).reshape(-1, 4)
    _, scale_wh = box_to_center_scale(boxes, input_hw=spec.input_hw, padding=spec.padding)
    return (scale_wh * SCALE_UNIT_PX).prod(-1).numpy()


def load_crops(manifest: DatasetManifest, split: str, row_ids: np.ndarray, spec: ModelSpec) -> records.Arrays:
    """Load the crops of rows in the order of `row_ids`; other row groups are not read."""
    parts = []
    for shard in manifest.get_shards(split):
        with open_shard(manifest, shard) as file:
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["id"])["id"].to_numpy()
                if (indices := np.flatnonzero(np.isin(ids, row_ids))).size:
                    parts.append(file.read_row_group(group).take(indices))
    table = pa.concat_tables(parts)
    index_of = {row_id: index for index, row_id in enumerate(table["id"].to_pylist())}
    table = table.take([index_of[row_id] for row_id in row_ids.tolist()])
    return records.decode_eval_batch(table, input_hw=spec.input_hw, padding=spec.padding)
