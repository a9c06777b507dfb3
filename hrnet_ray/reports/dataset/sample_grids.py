"""Tiles for the data report: instances as they are stored, and suspects close by."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest

import cv2
import numpy as np
import pyarrow as pa

from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import Manifest, Shard, open_shard
from hrnet_ray.data.records import Arrays, decode_rows
from hrnet_ray.reports.dataset.issues import Kind, Spot
from hrnet_ray.reports.dataset.statistics import Counts
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.text import printable
from hrnet_ray.visualization.drawing import draw_pose, fitted, moved, sheet

SAMPLES = 16
TILE_PX = 300
BOX_COLOUR = (255, 255, 255)
RING_COLOUR = (255, 0, 200)
MARGIN = 0.08  # around a suspect, of its longer side


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet, RGB, and the line below it."""

    picture: np.ndarray
    caption: str


@dataclass(frozen=True)
class Samples:
    """Instances to look at; pixels and points as training gets them."""

    rows: Arrays
    images: list[str]
    stored_hw: list[tuple[int, int]]
    """How much of each canvas is picture."""


def as_sheet(tiles: Sequence[Tile]) -> np.ndarray:
    """All tiles on one page, for a file of its own."""
    letters = tiles[0].picture.shape[1] // 7
    captions = [_ending(tile.caption, letters) for tile in tiles]
    height, width = np.max([tile.picture.shape[:2] for tile in tiles], 0).tolist()
    padded = [fitted(tile.picture, size_hw=(height, width))[0] for tile in tiles]
    return sheet(padded, captions=captions)


def _ending(caption: str, most: int) -> str:
    """The end of a long name says more than its start. OpenCV's letters are ASCII."""
    caption = caption.encode("ascii", "replace").decode()
    return caption if len(caption) <= most else ".." + caption[2 - most :]


def read_samples(manifest: Manifest, most: int = SAMPLES) -> Samples:
    """Decode training rows that stand at equal distances, so that no one scene fills the sheet."""
    total = manifest.splits["train"].rows
    wanted = np.linspace(0, total - 1, min(most, total)).round().astype(int)
    return read_rows(manifest, "train", np.unique(wanted).tolist())


def read_rows(manifest: Manifest, split: str, wanted: Sequence[int]) -> Samples:
    """Decode some rows of a split, in the order in which they are `wanted`."""
    rows, order = np.unique(wanted, return_inverse=True)
    parts, start = [], 0
    for shard in manifest.shards(split):
        here = rows[(rows >= start) & (rows < start + shard.rows)] - start
        if len(here):
            parts.append(_taken(manifest, shard, here))
        start += shard.rows
    table = pa.concat_tables(parts).take(order)
    stored = [_on_canvas(data.as_py(), manifest.canvas_px) for data in table["picture"]]
    return Samples(
        decode_rows(table, canvas_px=manifest.canvas_px), table["image"].to_pylist(), stored
    )


def _taken(manifest: Manifest, shard: Shard, rows: np.ndarray) -> pa.Table:
    """Some rows of a shard; only the row groups that hold them are read."""
    with open_shard(manifest, shard) as file:
        ends = np.cumsum([file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)])
        groups = np.searchsorted(ends, rows, side="right")
        parts = [
            file.read_row_group(int(g)).take(rows[groups == g] - (ends[g - 1] if g else 0))
            for g in np.unique(groups)
        ]
    return pa.concat_tables(parts)


def _on_canvas(data: bytes, canvas_px: int) -> tuple[int, int]:
    height, width = codec.size_hw(data) or (canvas_px, canvas_px)
    shrink = min(1.0, canvas_px / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def stored_tiles(samples: Samples, skeleton: Skeleton) -> list[Tile]:
    """Each instance with its pose, its box, and the surroundings that are stored with it."""
    return [
        Tile(_stored(samples, at, skeleton)[0], _caption(samples, at))
        for at in range(len(samples.images))
    ]


def _stored(
    samples: Samples, at: int, skeleton: Skeleton, *, wide: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A drawn tile, and where the keypoints lie on it."""
    rows, (height, width) = samples.rows, samples.stored_hw[at]
    zoom = TILE_PX / (width if wide else max(height, width))
    size_hw = (max(1, round(height * zoom)), max(1, round(width * zoom)))
    tile, tile_from_stored = codec.resized(rows["canvas"][at, :height, :width], size_hw=size_hw)
    into = tile_from_stored @ rows["canvas_from_image"][at]
    _draw_box(tile, moved(into, _corners(rows["box_xywh"][at])))
    xy = moved(into, rows["image_xy"][at])
    return draw_pose(tile, xy, rows["visible"][at], skeleton), xy


def _corners(box_xywh: np.ndarray) -> np.ndarray:
    x, y, w, h = box_xywh
    return np.array([[x, y], [x + w, y + h]])


def _draw_box(tile: np.ndarray, corners: np.ndarray) -> None:
    low, high = (tuple(map(int, corner)) for corner in np.rint(corners).clip(-1e4, 1e4))
    cv2.rectangle(tile, low, high, (0, 0, 0), 2, cv2.LINE_AA)
    cv2.rectangle(tile, low, high, BOX_COLOUR, 1, cv2.LINE_AA)


def _caption(samples: Samples, at: int) -> str:
    return printable(f"{samples.images[at]} #{samples.rows['id'][at]}")


def suspect_tiles(manifest: Manifest, counts: Counts, most: int = SAMPLES) -> list[Tile]:
    """Some of what deserves a look, of every kind that has an instance to show."""
    return [_suspect_tile(manifest, *thing) for thing in _in_turn(counts, most)]


def _in_turn(counts: Counts, most: int) -> list[tuple[str, Kind, Spot]]:
    """The first of each kind and split, then the second, until there are enough, kind by kind."""
    order = {name: place for place, name in enumerate(counts.splits)}
    queues = [
        [
            (name, kind, spot)
            for spot in _one_a_row(split.findings[kind])
            if not spot.other or order[name] <= order[spot.other[0]]  # found from both ends
        ]
        for kind in Kind
        for name, split in counts.splits.items()
    ]
    turns = (thing for turn in zip_longest(*queues) for thing in turn if thing)
    taken = list(islice(turns, most))
    places = {kind: place for place, kind in enumerate(Kind)}
    return sorted(taken, key=lambda thing: places[thing[1]])


def _one_a_row(spots: Iterable[Spot]) -> list[Spot]:
    """Spots of one instance become one, with all their keypoints; what is no instance is left."""
    rows: dict[int, Spot] = {}
    for spot in spots:
        first = rows.setdefault(spot.row, spot)
        if first is not spot:
            detail, keypoints = f"{first.detail}, {spot.detail}", first.keypoints + spot.keypoints
            rows[spot.row] = first._replace(detail=detail, keypoints=keypoints)
    return [spot for row, spot in rows.items() if row >= 0]


def _suspect_tile(manifest: Manifest, split: str, kind: Kind, spot: Spot) -> Tile:
    if spot.other:
        both = [
            read_rows(manifest, *one)
            for one in ((split, [spot.row]), (spot.other[0], [spot.other[1]]))
        ]
        picture = np.concatenate([_stored(s, 0, manifest.skeleton, wide=True)[0] for s in both])
    else:
        picture = _ringed(manifest, split, spot.row, spot.keypoints)
    said = f"{split}, {kind}: {spot.name}" + (f": {spot.detail}" if spot.detail else "")
    return Tile(picture, printable(said))


def _ringed(manifest: Manifest, split: str, row: int, keypoints: Sequence[int]) -> np.ndarray:
    """An instance, close by; its suspicious keypoints have a ring around them."""
    tile, xy = _stored(_close(read_rows(manifest, split, [row])), 0, manifest.skeleton)
    height, width = tile.shape[:2]
    for k in keypoints:
        x, y = np.rint(xy[k]).clip((6, 6), (width - 7, height - 7)).astype(int).tolist()
        cv2.circle(tile, (x, y), 9, (0, 0, 0), 4, cv2.LINE_AA)
        cv2.circle(tile, (x, y), 9, RING_COLOUR, 2, cv2.LINE_AA)
    return tile


def _close(samples: Samples) -> Samples:
    """Cut one sample down to its box, its points, and a little more."""
    rows, (height, width) = samples.rows, samples.stored_hw[0]
    into = rows["canvas_from_image"][0]
    xy = np.concatenate([_corners(rows["box_xywh"][0]), rows["image_xy"][0][rows["visible"][0]]])
    xy = moved(into, xy)
    margin = MARGIN * np.ptp(xy, axis=0).max()
    left, top = (xy.min(0) - margin).clip(0, (width - 2, height - 2)).astype(int).tolist()
    right, bottom = np.ceil(xy.max(0) + margin).clip((left + 2, top + 2), (width, height))
    cut_from_canvas = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]])
    cut = {
        "canvas": rows["canvas"][:, top:, left:],
        "canvas_from_image": (cut_from_canvas @ into)[None],
    }
    return replace(samples, rows=rows | cut, stored_hw=[(int(bottom) - top, int(right) - left)])
