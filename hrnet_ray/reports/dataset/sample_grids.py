"""Tiles of the dataset report: stored instances, and close-ups of possible issues."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest

import cv2
import numpy as np
import pyarrow as pa

from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import DatasetManifest, ShardInfo, open_shard
from hrnet_ray.data.records import Arrays, decode_train_batch
from hrnet_ray.reports.dataset.issues import DatasetIssue, IssueType
from hrnet_ray.reports.dataset.statistics import DatasetStatistics
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.text import escape_control_chars
from hrnet_ray.visualization.drawing import (
    draw_pose,
    render_image_grid,
    resize_to_fit,
    transform_points,
)

MAX_SAMPLES = 16
TILE_SIZE_PX = 300
BOX_COLOR = (255, 255, 255)
RING_COLOR = (255, 0, 200)
ISSUE_MARGIN_FRAC = 0.08
"""Margin around an instance with an issue, as a fraction of its longer side."""


@dataclass(frozen=True)
class ReportTile:
    """One RGB image of a grid, and its caption."""

    image: np.ndarray
    caption: str


@dataclass(frozen=True)
class SampleBatch:
    """Instances to draw; pixels and keypoints as training gets them."""

    rows: Arrays
    image_names: list[str]
    stored_hw: list[tuple[int, int]]
    """Size of the image in the top left of each canvas."""


def to_grid(tiles: Sequence[ReportTile]) -> np.ndarray:
    """Join all tiles into one image."""
    max_chars = tiles[0].image.shape[1] // 7
    captions = [_truncate_caption_start(tile.caption, max_chars) for tile in tiles]
    height, width = np.max([tile.image.shape[:2] for tile in tiles], 0).tolist()
    padded = [resize_to_fit(tile.image, size_hw=(height, width))[0] for tile in tiles]
    return render_image_grid(padded, captions=captions)


def _truncate_caption_start(caption: str, max_chars: int) -> str:
    """Cut a caption at its start, and keep ASCII only, as OpenCV's fonts need."""
    caption = caption.encode("ascii", "replace").decode()
    return caption if len(caption) <= max_chars else ".." + caption[2 - max_chars :]


def load_samples(manifest: DatasetManifest, max_samples: int = MAX_SAMPLES) -> SampleBatch:
    """Decode training rows at equal distances, so that no scene fills the whole grid."""
    total = manifest.splits["train"].rows
    rows = np.linspace(0, total - 1, min(max_samples, total)).round().astype(int)
    return load_rows(manifest, "train", np.unique(rows).tolist())


def load_rows(manifest: DatasetManifest, split: str, row_indices: Sequence[int]) -> SampleBatch:
    """Decode some rows of a split, in the order of `row_indices`."""
    rows, order = np.unique(row_indices, return_inverse=True)
    parts, start = [], 0
    for shard in manifest.get_shards(split):
        in_shard = rows[(rows >= start) & (rows < start + shard.rows)] - start
        if len(in_shard):
            parts.append(_read_shard_rows(manifest, shard, in_shard))
        start += shard.rows
    table = pa.concat_tables(parts).take(order)
    stored = [_compute_canvas_hw(data.as_py(), manifest.canvas_px) for data in table["picture"]]
    return SampleBatch(decode_train_batch(table, canvas_px=manifest.canvas_px), table["image"].to_pylist(), stored)


def _read_shard_rows(manifest: DatasetManifest, shard: ShardInfo, row_indices: np.ndarray) -> pa.Table:
    """Read the row groups of a shard that hold the rows, and select the rows."""
    with open_shard(manifest, shard) as file:
        ends = np.cumsum([file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)])
        groups = np.searchsorted(ends, row_indices, side="right")
        parts = [
            file.read_row_group(int(g)).take(row_indices[groups == g] - (ends[g - 1] if g else 0))
            for g in np.unique(groups)
        ]
    return pa.concat_tables(parts)


def _compute_canvas_hw(data: bytes, canvas_px: int) -> tuple[int, int]:
    height, width = codec.read_size_hw(data) or (canvas_px, canvas_px)
    shrink = min(1.0, canvas_px / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def draw_stored_samples(samples: SampleBatch, skeleton: Skeleton) -> list[ReportTile]:
    """Draw each stored instance with its pose and its box."""
    return [
        ReportTile(_draw_stored_sample(samples, index, skeleton)[0], _format_sample_caption(samples, index))
        for index in range(len(samples.image_names))
    ]


def _draw_stored_sample(
    samples: SampleBatch, index: int, skeleton: Skeleton, *, fit_width: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one tile; returns it and its keypoints in tile pixels."""
    rows, (height, width) = samples.rows, samples.stored_hw[index]
    zoom = TILE_SIZE_PX / (width if fit_width else max(height, width))
    size_hw = (max(1, round(height * zoom)), max(1, round(width * zoom)))
    tile, tile_from_stored = codec.resize_image(rows["canvas"][index, :height, :width], size_hw=size_hw)
    into = tile_from_stored @ rows["canvas_from_image"][index]
    _draw_box(tile, transform_points(into, _compute_box_corners(rows["box_xywh"][index])))
    xy = transform_points(into, rows["image_xy"][index])
    return draw_pose(tile, xy, rows["visible"][index], skeleton), xy


def _compute_box_corners(box_xywh: np.ndarray) -> np.ndarray:
    x, y, w, h = box_xywh
    return np.array([[x, y], [x + w, y + h]])


def _draw_box(tile: np.ndarray, corners_xy: np.ndarray) -> None:
    low, high = (tuple(map(int, corner)) for corner in np.rint(corners_xy).clip(-1e4, 1e4))
    cv2.rectangle(tile, low, high, (0, 0, 0), 2, cv2.LINE_AA)
    cv2.rectangle(tile, low, high, BOX_COLOR, 1, cv2.LINE_AA)


def _format_sample_caption(samples: SampleBatch, index: int) -> str:
    return escape_control_chars(f"{samples.image_names[index]} #{samples.rows['id'][index]}")


def draw_issues(
    manifest: DatasetManifest, statistics: DatasetStatistics, max_tiles: int = MAX_SAMPLES
) -> list[ReportTile]:
    """Draw examples of each kind of issue that concerns an instance."""
    return [_draw_issue_tile(manifest, *selected) for selected in _select_issues_in_turn(statistics, max_tiles)]


def _select_issues_in_turn(statistics: DatasetStatistics, max_issues: int) -> list[tuple[str, IssueType, DatasetIssue]]:
    """Select issues from each kind and split in turn, up to `max_issues`; sort them by kind."""
    split_order = {name: index for index, name in enumerate(statistics.splits)}
    queues = [
        [
            (name, kind, issue)
            for issue in _merge_issues_by_row(split.issues[kind])
            # Both splits list a shared image; it gets one tile.
            if not issue.similar_to or split_order[name] <= split_order[issue.similar_to[0]]
        ]
        for kind in IssueType
        for name, split in statistics.splits.items()
    ]
    in_turn = (item for turn in zip_longest(*queues) for item in turn if item)
    kinds = list(IssueType)
    return sorted(islice(in_turn, max_issues), key=lambda item: kinds.index(item[1]))


def _merge_issues_by_row(issues: Iterable[DatasetIssue]) -> list[DatasetIssue]:
    """Merge the issues of one row, with all their keypoints; drop issues without a row."""
    rows: dict[int, DatasetIssue] = {}
    for issue in issues:
        first = rows.setdefault(issue.row, issue)
        if first is not issue:
            rows[issue.row] = first._replace(
                detail=f"{first.detail}, {issue.detail}",
                keypoints=first.keypoints + issue.keypoints,
            )
    return [issue for row, issue in rows.items() if row >= 0]


def _draw_issue_tile(manifest: DatasetManifest, split: str, issue_type: IssueType, issue: DatasetIssue) -> ReportTile:
    if issue.similar_to:
        pair = [load_rows(manifest, name, [row]) for name, row in ((split, issue.row), issue.similar_to)]
        image = np.concatenate([_draw_stored_sample(s, 0, manifest.skeleton, fit_width=True)[0] for s in pair])
    else:
        image = _draw_ringed_keypoints(manifest, split, issue.row, issue.keypoints)
    return ReportTile(image, escape_control_chars(f"{split}, {issue_type}: {issue.label}"))


def _draw_ringed_keypoints(manifest: DatasetManifest, split: str, row: int, keypoints: Sequence[int]) -> np.ndarray:
    """Draw a close-up of an instance, with a ring around each keypoint in question."""
    tile, xy = _draw_stored_sample(_crop_to_instance(load_rows(manifest, split, [row])), 0, manifest.skeleton)
    height, width = tile.shape[:2]
    for k in keypoints:
        x, y = np.rint(xy[k]).clip((6, 6), (width - 7, height - 7)).astype(int).tolist()
        cv2.circle(tile, (x, y), 9, (0, 0, 0), 4, cv2.LINE_AA)
        cv2.circle(tile, (x, y), 9, RING_COLOR, 2, cv2.LINE_AA)
    return tile


def _crop_to_instance(samples: SampleBatch) -> SampleBatch:
    """Crop one sample to its box and keypoints plus a margin."""
    rows, (height, width) = samples.rows, samples.stored_hw[0]
    into = rows["canvas_from_image"][0]
    xy = np.concatenate([_compute_box_corners(rows["box_xywh"][0]), rows["image_xy"][0][rows["visible"][0]]])
    xy = transform_points(into, xy)
    margin = ISSUE_MARGIN_FRAC * np.ptp(xy, axis=0).max()
    left, top = (xy.min(0) - margin).clip(0, (width - 2, height - 2)).astype(int).tolist()
    right, bottom = np.ceil(xy.max(0) + margin).clip((left + 2, top + 2), (width, height))
    cut_from_canvas = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]])
    cut = {
        "canvas": rows["canvas"][:, top:, left:],
        "canvas_from_image": (cut_from_canvas @ into)[None],
    }
    return replace(samples, rows=rows | cut, stored_hw=[(int(bottom) - top, int(right) - left)])
