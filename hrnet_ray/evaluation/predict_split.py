"""Rows of a data set to poses, shard by shard, without Ray: what an evaluation looks at.

Each row (or each box of a detector) becomes one crop and one pose. Rows whose pictures rotted since
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
from hrnet_ray.data.batch import CropBatch, to_crops
from hrnet_ray.data.manifest import Manifest, open_shard
from hrnet_ray.data.shards import Progress
from hrnet_ray.errors import DataError
from hrnet_ray.evaluation.ground_truth import Labelled
from hrnet_ray.inference.model_package import ModelSpec
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.metrics.detections import Boxes
from hrnet_ray.metrics.oks import Poses
from hrnet_ray.metrics.predictions import Predictions, instance_scores
from hrnet_ray.metrics.validation import paired
from hrnet_ray.pose.geometry import UNIT_PX, box_to_center_scale
from hrnet_ray.utils.prefetch import ahead

BATCH = 64
DECODERS = 8  # threads; OpenCV lets go of the GIL


@dataclass(frozen=True)
class Seen:
    """What a model found in the readable rows of a split."""

    poses: Poses
    labelled: Labelled
    """The readable rows; with true boxes, pose n is that of row n."""
    skipped: list[tuple[int, str]]
    """Row id and file name of those whose picture is not what was prepared."""


@dataclass(frozen=True)
class Part:
    """One of `of` parts of a split, for who shares the work. Any number finds the same."""

    index: int = 0
    of: int = 1

    def has(self, number: int) -> bool:
        """Whether a row group, or a batch of boxes, is this part's."""
        return number % self.of == self.index


WHOLE = Part()


@dataclass(frozen=True)
class Found:
    """What a model found in a part of a split."""

    predictions: Predictions
    """By row id, or with given boxes by the number of the box."""
    unread: list[int]
    """Such ids, of those whose pictures could not be read."""
    intact: np.ndarray | None = None
    """With given boxes, bool [P]: pictures that a row still holds as they were prepared."""

    @classmethod
    def joined(cls, parts: Sequence["Found"]) -> "Found":
        """All parts as one, in whatever order they came."""
        some = [part for part in parts if len(part.predictions.ids)]
        predictions = (
            Predictions.joined([part.predictions for part in some])
            if some
            else parts[0].predictions
        )
        unread = sorted(id for part in parts for id in part.unread)
        return cls(predictions, unread, parts[0].intact)


def look(
    predictor: Predictor,
    manifest: Manifest,
    split: str,
    labelled: Labelled,
    *,
    boxes: Boxes | None = None,
    progress: Progress = lambda done, total: None,
    batch_size: int = BATCH,
) -> Seen:
    """Predict a pose in each row's true box, or in each of a detector's `boxes`.

    Raises:
        DataError: a shard is damaged, or no row is readable.
    """
    found = find(
        predictor, manifest, split, labelled, boxes=boxes, progress=progress, batch_size=batch_size
    )
    return seen_of(found, manifest, split, labelled, boxes=boxes, spec=predictor.spec)


def find(
    predictor: Predictor,
    manifest: Manifest,
    split: str,
    labelled: Labelled,
    *,
    boxes: Boxes | None = None,
    part: Part = WHOLE,
    progress: Progress = lambda done, total: None,
    batch_size: int = BATCH,
) -> Found:
    """Predict a part; batches are those of the whole, so that every pose is the same to the bit.

    Raises:
        DataError: a shard is damaged.
    """
    eyes = _Eyes(predictor, manifest, split, batch_size, progress, part)
    if boxes is None:
        return eyes.see(eyes.tables(part), total=len(labelled))
    intact = np.zeros(len(labelled.pictures), bool)
    batches = enumerate(_rows_of_boxes(eyes, labelled, boxes, intact))
    mine = (table for number, table in batches if part.has(number))
    return replace(eyes.see(mine, total=len(boxes.score)), intact=intact)


def seen_of(
    found: Found,
    manifest: Manifest,
    split: str,
    labelled: Labelled,
    *,
    boxes: Boxes | None,
    spec: ModelSpec,
) -> Seen:
    """Give the found poses to their pictures, and leave out by name what could not be read.

    Raises:
        DataError: no row is readable.
    """
    readable = _readable(found, labelled, boxes)
    skipped = [
        (int(labelled.truth["id"][at]), labelled.images[at]) for at in np.flatnonzero(~readable)
    ]
    if not readable.any():
        raise DataError(
            "no picture that is what was prepared",
            f"{split} of {manifest.root}: {len(skipped):,} rows",
            "copy the data set again, or prepare it again",
        )
    used = labelled.only(readable) if skipped else labelled
    if boxes is None:
        return Seen(_poses_of_rows(found.predictions, used, spec), used, skipped)
    return Seen(_poses_of_boxes(found.predictions, labelled, used, boxes, spec), used, skipped)


def _readable(found: Found, labelled: Labelled, boxes: Boxes | None) -> np.ndarray:
    """Which rows' pictures could be read: bool [N]."""
    if boxes is None or found.intact is None:
        return ~np.isin(labelled.truth["id"], found.unread)
    intact = found.intact.copy()
    intact[boxes.picture[found.unread]] = False
    return intact[labelled.truth["picture"]]


@dataclass(frozen=True)
class _Eyes:
    """How rows are read and looked at."""

    predictor: Predictor
    manifest: Manifest
    split: str
    batch_size: int
    progress: Progress
    part: Part

    def tables(self, part: Part = WHOLE) -> Iterator[pa.Table]:
        """A part's rows in their order, each with whether its picture is intact."""
        number = 0
        for shard in self.manifest.shards(self.split):
            with open_shard(self.manifest, shard) as file:
                for group in range(file.num_row_groups):
                    number += 1
                    if not part.has(number - 1):
                        continue
                    for batch in file.iter_batches(self.batch_size, row_groups=[group]):
                        table = pa.Table.from_batches([batch])
                        table.validate(full=True)
                        yield records.checked(table)

    def see(self, tables: Iterable[pa.Table], *, total: int) -> Found:
        """Predictions by row id, and the ids of rows that could not be read."""
        unread: list[int] = []
        with ThreadPoolExecutor(min(DECODERS, cpu_count())) as pool:
            crops = self._crops(tables, pool, unread, total)
            return Found(self.predictor.predict(ahead(crops)), unread)

    def _crops(
        self, tables: Iterable[pa.Table], pool: ThreadPoolExecutor, unread: list[int], total: int
    ) -> Iterator[CropBatch]:
        spec, done = self.predictor.spec, 0
        for table in tables:
            arrays = records.decode_exact(
                table, input_hw=spec.input_hw, padding=spec.padding, each=pool.map
            )
            kept = arrays["readable"]
            unread += arrays["id"][~kept].tolist()
            if kept.any():
                arrays = {name: column[kept] for name, column in arrays.items()}
                yield to_crops(arrays, self.predictor.device)
            done += table.num_rows
            self.progress(done, total)
        if done < total and self.part == WHOLE:  # boxes in pictures that could not be read
            self.progress(total, total)


def _rows_of_boxes(
    eyes: _Eyes, labelled: Labelled, boxes: Boxes, intact: np.ndarray
) -> Iterator[pa.Table]:
    """A row for each box: its picture from the first intact row of the same picture.

    Says so in `intact`, bool [P]; all rows are read for that, whoever looks at them.
    """
    ids, pictures = (labelled.truth[name].tolist() for name in ("id", "picture"))
    picture_of = dict(zip(ids, pictures, strict=True))
    ends = np.searchsorted(boxes.picture, np.arange(len(intact) + 1))
    for table in eyes.tables():
        pairs: list[tuple[int, int]] = []  # row of this table, box
        columns = (table[name].to_pylist() for name in ("id", "intact"))
        for at, (row, ok) in enumerate(zip(*columns, strict=True)):
            place = picture_of[row]
            if ok and not intact[place]:
                intact[place] = True
                pairs += [(at, box) for box in range(ends[place], ends[place + 1])]
        cuts = [*range(0, len(pairs), eyes.batch_size), len(pairs)]
        for first, last in pairwise(cuts):
            yield _with_boxes(table, pairs[first:last], boxes)


def _with_boxes(table: pa.Table, pairs: list[tuple[int, int]], boxes: Boxes) -> pa.Table:
    at, which = (list(numbers) for numbers in zip(*pairs, strict=True))
    part = table.take(at)
    for name, values in (("id", which), ("box_xywh", boxes.box_xywh[which].tolist())):
        column = part.schema.get_field_index(name)
        field = part.schema.field(column)
        part = part.set_column(column, field, pa.array(values, field.type))
    return part


def _poses_of_rows(found: Predictions, used: Labelled, spec: ModelSpec) -> Poses:
    found, truth = paired(found, used.truth)  # each row once, or an error
    named = {name: truth[name] for name in ("picture", "image_id", "category_id")}
    return replace(_poses(found, truth["box_xywh"], spec), **named)


def _poses_of_boxes(
    found: Predictions, labelled: Labelled, used: Labelled, boxes: Boxes, spec: ModelSpec
) -> Poses:
    box = found.ids.numpy()
    poses = _poses(found, boxes.box_xywh[box], spec)
    now = {name: at for at, name in enumerate(used.pictures)}
    place = np.array([now.get(name, -1) for name in labelled.pictures])[boxes.picture[box]]
    _, first = np.unique(used.truth["picture"], return_index=True)
    poses = replace(
        poses,
        picture=place,
        image_id=used.truth["image_id"][first][place],
        category_id=boxes.category_id[box],
        score=poses.score * boxes.score[box],
    )
    return poses.take(place >= 0)


def _poses(found: Predictions, box_xywh: np.ndarray, spec: ModelSpec) -> Poses:
    """Poses as the model found them; whose they are is still to be said."""
    nobody = np.zeros(len(found.ids), np.int64)
    return Poses(
        picture=nobody,
        image_id=nobody,
        category_id=nobody,
        image_xy=found.image_xy.double().numpy(),
        heights=found.scores.double().numpy(),
        score=instance_scores(found).double().numpy(),
        area=padded_areas(box_xywh, spec),
    )


def padded_areas(box_xywh: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Square pixels of what a model was shown of each box: float64 [N]."""
    boxes = torch.tensor(box_xywh, dtype=torch.float64).reshape(-1, 4)
    _, scale_wh = box_to_center_scale(boxes, input_hw=spec.input_hw, padding=spec.padding)
    return (scale_wh * UNIT_PX).prod(-1).numpy()


def crops_of(manifest: Manifest, split: str, wanted: np.ndarray, spec: ModelSpec) -> records.Arrays:
    """Crops of some rows, by their ids, in that order; only row groups that hold them are read."""
    parts = []
    for shard in manifest.shards(split):
        with open_shard(manifest, shard) as file:
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["id"])["id"].to_numpy()
                if (here := np.flatnonzero(np.isin(ids, wanted))).size:
                    parts.append(file.read_row_group(group).take(here))
    table = pa.concat_tables(parts)
    place = {row: at for at, row in enumerate(table["id"].to_pylist())}
    table = table.take([place[row] for row in wanted.tolist()])
    return records.decode_exact(table, input_hw=spec.input_hw, padding=spec.padding)
