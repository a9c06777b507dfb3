"""Pictures that stand in a data set more than once: by their bytes, and by how they look."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from joblib import cpu_count

from hrnet_ray.data.images import codec
from hrnet_ray.data.images.codec import cv2  # first imported there, where its limits are set
from hrnet_ray.data.manifest import DatasetManifest, open_shard
from hrnet_ray.data.records import Arrays, crop_region
from hrnet_ray.data.shards import ProgressCallback
from hrnet_ray.reports.dataset.issues import (
    DatasetIssue,
    IssuesByType,
    IssueType,
    format_instance_label,
)

READ_BATCH_ROWS = 32
"""Pictures that are in memory at once."""
HASH_GRID = 8
"""A look is 8 x 8 comparisons of neighbours to the right and as many downwards: 128 bits."""
MAX_HASH_DISTANCE = 7
"""Looks that differ in so many bits, or fewer, belong to the same scene, or nearly."""
HASH_BANDS = 8
"""At least one of 8 parts of two looks is the same where 7 bits at most differ."""
MAX_NEIGHBORS_PER_BAND = 128
"""So many rows that share a part of their look are compared in full with each one."""
MIN_GRAY_STD = 4.0
"""Grey levels of spread, below which a look says nothing."""


class StoredImages(NamedTuple):
    """What was found on opening the pictures of one split, in the order of its rows."""

    stored_xywh: np.ndarray
    """float64 [N, 4]: what of its picture a row keeps; NaN for bytes that are no picture.
    As with boxes, x + w is the last pixel, not the one after it."""
    hashes: np.ndarray
    """uint8 [N, 16]."""
    is_hash_valid: np.ndarray
    """bool [N]: the picture is there and not flat, so its look says something."""


def scan_stored_images(
    manifest: DatasetManifest, split: str, progress: ProgressCallback | None = None
) -> StoredImages:
    """Open the picture of every row, some at a time."""
    parts, total, done = [], manifest.splits[split].rows, 0
    # A whole file is cut like a region, so that the two can be compared.
    canvas_px = manifest.canvas_px if manifest.splits[split].kind == "exact" else None
    look = partial(_decode_and_hash_image, canvas_px=canvas_px)
    with ThreadPoolExecutor(cpu_count()) as pool:
        for batch in _iter_image_batches(manifest, split):
            rows = range(batch.num_rows)
            datas = [data.as_py() for data in batch["picture"]]
            matrices, boxes = (
                _unflatten_list_column(batch["stored_from_image"], 3, 3),
                _unflatten_list_column(batch["box_xywh"]),
            )
            seen = list(pool.map(look, datas, boxes))
            done += len(rows)
            if progress:
                progress(done, total)
            xywh = np.array([_compute_stored_xywh(seen[at][0], matrices[at]) for at in rows])
            parts.append((xywh, [look for _, look, _ in seen], [tells for *_, tells in seen]))
    xywh, looks, telling = (np.concatenate(column) for column in zip(*parts, strict=True))
    return StoredImages(xywh, looks, telling)


def _iter_image_batches(manifest: DatasetManifest, split: str) -> Iterator[pa.RecordBatch]:
    columns = ["picture", "stored_from_image", "box_xywh"]
    for shard in manifest.get_shards(split):
        with open_shard(manifest, shard) as file:
            yield from file.iter_batches(READ_BATCH_ROWS, columns=columns)


def _unflatten_list_column(column: pa.Array, *inner_shape: int) -> np.ndarray:
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), *(inner_shape or (-1,)))


def _decode_and_hash_image(
    data: bytes, box_xywh: np.ndarray, *, canvas_px: int | None
) -> tuple[tuple[int, int] | None, np.ndarray, bool]:
    """Size, look, and whether that says anything, of the region that training would see."""
    picture = codec.decode_image(data)
    if picture is None:
        return None, np.zeros(2 * HASH_GRID, np.uint8), False
    height, width = picture.shape[:2]
    if canvas_px:
        x, y, w, h = box_xywh.tolist()
        picture, _ = crop_region(picture, (x, y, w, h), canvas_px=canvas_px)
    return (height, width), *compute_perceptual_hash(picture)


def compute_perceptual_hash(image: np.ndarray) -> tuple[np.ndarray, bool]:
    """128 bits that stay when an RGB picture is compressed, resized or brightened: uint8 [16]."""
    small = cv2.resize(image, (HASH_GRID + 1, HASH_GRID + 1), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.int16)
    across = grey[:HASH_GRID, 1:] > grey[:HASH_GRID, :-1]
    down = grey[1:, :HASH_GRID] > grey[:-1, :HASH_GRID]
    return np.packbits(np.stack([across, down])), bool(grey.std() >= MIN_GRAY_STD)


def _compute_stored_xywh(
    decoded_hw: tuple[int, int] | None, stored_from_image: np.ndarray
) -> np.ndarray:
    if decoded_hw is None:
        return np.full(4, np.nan)
    scale_xy, shift_xy = stored_from_image[(0, 1), (0, 1)], stored_from_image[:2, 2]
    # Edges lie half a pixel outside of the first and the last pixel's middle.
    first_xy = (-0.5 - shift_xy) / scale_xy + 0.5
    last_xy = (np.array(decoded_hw[::-1]) - 0.5 - shift_xy) / scale_xy - 0.5
    return np.concatenate([first_xy, last_xy - first_xy])


def find_exact_duplicates(labels_by_split: Mapping[str, Arrays]) -> dict[str, IssuesByType]:
    """Pictures of the same bytes: under two names in one split, or in two splits."""
    first = {name: _index_rows_by_sha256(labels) for name, labels in labels_by_split.items()}
    found: dict[str, IssuesByType] = {}
    for name, labels in labels_by_split.items():
        others = [(other, rows) for other, rows in first.items() if other != name]
        in_both = [
            DatasetIssue(
                row,
                image,
                _format_other_location(labels_by_split, other, rows[sha256]),
                similar_to=(other, rows[sha256]),
            )
            for sha256, row in first[name].items()
            for image in [str(labels["image"][row])]
            for other, rows in others
            if sha256 in rows
        ]
        found[name] = {
            IssueType.IMAGE_IN_OTHER_SPLIT: in_both,
            IssueType.DUPLICATE_IMAGE: list(_find_renamed_duplicates(labels, first[name])),
        }
    return found


def _index_rows_by_sha256(labels: Arrays) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, sha256 in enumerate(labels["sha256"].tolist()):
        rows.setdefault(sha256, row)
    return rows


def _format_other_location(labels_by_split: Mapping[str, Arrays], split: str, row: int) -> str:
    return f"in {split} as {labels_by_split[split]['image'][row]}"


def _find_renamed_duplicates(
    labels: Arrays, first_row_by_sha256: dict[str, int]
) -> Iterator[DatasetIssue]:
    named = set()
    for row, (sha256, image) in enumerate(
        zip(labels["sha256"].tolist(), labels["image"].tolist(), strict=True)
    ):
        original = labels["image"][first_row_by_sha256[sha256]]
        if image != original and image not in named:
            named.add(image)
            yield DatasetIssue(row, image, f"as {original}")


def find_near_duplicates(
    labels_by_split: Mapping[str, Arrays], images_by_split: Mapping[str, StoredImages]
) -> dict[str, IssuesByType]:
    """For each picture the one of other bytes that looks most like it, where one is like it."""
    names = list(labels_by_split)
    home = np.concatenate(
        [np.full(len(labels_by_split[n]["id"]), at) for at, n in enumerate(names)]
    )
    row = np.concatenate([np.arange(len(labels_by_split[n]["id"])) for n in names])
    sha256 = np.concatenate([labels_by_split[n]["sha256"] for n in names])
    _, picture = np.unique(sha256, return_inverse=True)
    looks = np.concatenate([images_by_split[n].hashes for n in names])
    telling = np.concatenate([images_by_split[n].is_hash_valid for n in names])
    found: dict[str, IssuesByType] = {
        n: {IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT: [], IssueType.NEAR_DUPLICATE_IMAGE: []}
        for n in names
    }
    for kind, groups in (
        (IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT, home),
        (IssueType.NEAR_DUPLICATE_IMAGE, None),
    ):
        partner, bits = _find_nearest_hashes(
            looks, telling, picture, home, across_splits=groups is not None
        )
        for one in _select_one_per_image(partner, bits, picture, home):
            split, other = names[home[one]], int(partner[one])
            there = names[home[other]]
            name = format_instance_label(labels_by_split[there], int(row[other]))
            detail = (
                f"like {there} {name}"
                if kind is IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT
                else f"like {name}"
            )
            spot = DatasetIssue(
                int(row[one]),
                format_instance_label(labels_by_split[split], int(row[one])),
                f"{detail}, {bits[one]} of 128 bits differ",
                similar_to=(there, int(row[other])),
            )
            found[split][kind].append(spot)
    return found


def _select_one_per_image(
    partner: np.ndarray, hash_distance: np.ndarray, image_index: np.ndarray, split_index: np.ndarray
) -> list[int]:
    """The most alike first; one instance speaks for its picture."""
    rows = np.flatnonzero(partner >= 0)
    mutual = (partner[partner[rows]] == rows) & (split_index[rows] == split_index[partner[rows]])
    rows = rows[~mutual | (rows > partner[rows])]  # the later one is like the earlier
    rows = rows[np.argsort(hash_distance[rows], kind="stable")]
    _, first = np.unique(image_index[rows], return_index=True)
    return rows[np.sort(first)].tolist()


def _find_nearest_hashes(
    hashes: np.ndarray,
    is_hash_valid: np.ndarray,
    image_index: np.ndarray,
    split_index: np.ndarray,
    *,
    across_splits: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """The most alike row of another picture, in another split (`apart`) or in the same one.

    Rows that share one of 8 parts of their look come together by sorting; then only neighbours are
    compared, so that memory grows with the rows and not with their pairs. Of a film whose thousands
    of frames share a part, each meets `NEIGHBOURS` others, drawn by lot, and the best of them.

    Returns:
        int64 [N], -1 for none; and the number of bits that differ.
    """
    partner, fewest = np.full(len(hashes), -1), np.full(len(hashes), MAX_HASH_DISTANCE + 1)
    parts = hashes.view(np.uint16)  # [N, 8]
    words = hashes.view(np.uint64)  # [N, 2]
    lot = np.random.default_rng(0).permutation(np.flatnonzero(is_hash_valid))
    for band in range(HASH_BANDS):
        order = lot[np.argsort(parts[lot, band], kind="stable")]
        key = parts[order, band]
        for step in range(1, min(len(order), MAX_NEIGHBORS_PER_BAND + 1)):
            near = np.flatnonzero(key[step:] == key[:-step])
            if not len(near):
                break
            a, b = order[near], order[near + step]
            bits = np.bitwise_count(words[a] ^ words[b]).sum(1)
            fits = (image_index[a] != image_index[b]) & (
                (split_index[a] != split_index[b]) == across_splits
            )
            for one, other in ((a, b), (b, a)):
                better = fits & (bits < fewest[one])  # `one` has no row twice
                partner[one[better]], fewest[one[better]] = other[better], bits[better]
    return partner, fewest
