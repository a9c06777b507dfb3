"""Duplicate images of a dataset: identical bytes, or similar perceptual hashes."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from joblib import cpu_count

from hrnet_ray.data.images import codec
from hrnet_ray.data.images.codec import cv2  # codec sets the limits of cv2 on import
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
"""Number of encoded images in memory at once."""
HASH_GRID = 8
"""Rows and columns of the hash: 8 x 8 comparisons to the right and 8 x 8 downwards, 128 bits."""
MAX_HASH_DISTANCE = 7
"""Largest number of different bits between the hashes of nearly identical images."""
HASH_BANDS = 8
"""Number of parts of a hash; two hashes that differ in at most 7 bits share at least one part."""
MAX_NEIGHBORS_PER_BAND = 128
"""Number of rows with the same part of the hash that are compared in full with each row."""
MIN_GRAY_STD = 4.0
"""Standard deviation in grey levels below which a hash carries no information."""


class StoredImages(NamedTuple):
    """Stored regions and perceptual hashes of the images of one split, in row order."""

    stored_xywh: np.ndarray
    """float64 [N, 4]: stored region in pixels of the original image; NaN if it can't be decoded.
    As for boxes, x + w is the last pixel, not the one after it."""
    hashes: np.ndarray
    """uint8 [N, 16]."""
    is_hash_valid: np.ndarray
    """bool [N]: the image can be decoded and is not flat."""


def scan_stored_images(manifest: DatasetManifest, split: str, progress: ProgressCallback | None = None) -> StoredImages:
    """Decode the image of every row, `READ_BATCH_ROWS` at a time."""
    parts, total, done = [], manifest.splits[split].rows, 0
    # A full image is cropped like a stored region, so that their hashes are comparable.
    canvas_px = manifest.canvas_px if manifest.splits[split].kind == "exact" else None
    decode = partial(_decode_and_hash_image, canvas_px=canvas_px)
    with ThreadPoolExecutor(cpu_count()) as pool:
        for batch in _iter_image_batches(manifest, split):
            rows = range(batch.num_rows)
            encoded = batch["picture"].to_pylist()
            matrices = _unflatten_list_column(batch["stored_from_image"], 3, 3)
            boxes = _unflatten_list_column(batch["box_xywh"])
            sizes, hashes, are_valid = zip(*pool.map(decode, encoded, boxes), strict=True)
            done += len(rows)
            if progress:
                progress(done, total)
            xywh = np.array([_compute_stored_xywh(sizes[row], matrices[row]) for row in rows])
            parts.append((xywh, hashes, are_valid))
    return StoredImages(*(np.concatenate(column) for column in zip(*parts, strict=True)))


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
    """Return (height, width), hash and hash validity of the region that training uses."""
    image = codec.decode_image(data)
    if image is None:
        return None, np.zeros(2 * HASH_GRID, np.uint8), False
    height, width = image.shape[:2]
    if canvas_px:
        x, y, w, h = box_xywh.tolist()
        image, _ = crop_region(image, (x, y, w, h), canvas_px=canvas_px)
    return (height, width), *compute_perceptual_hash(image)


def compute_perceptual_hash(image: np.ndarray) -> tuple[np.ndarray, bool]:
    """Hash an RGB image to uint8 [16], robust against compression, resizing and brightness.

    The second value is False for a flat image, whose hash carries no information.
    """
    small = cv2.resize(image, (HASH_GRID + 1, HASH_GRID + 1), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.int16)
    across = grey[:HASH_GRID, 1:] > grey[:HASH_GRID, :-1]
    down = grey[1:, :HASH_GRID] > grey[:-1, :HASH_GRID]
    return np.packbits(np.stack([across, down])), bool(grey.std() >= MIN_GRAY_STD)


def _compute_stored_xywh(decoded_hw: tuple[int, int] | None, stored_from_image: np.ndarray) -> np.ndarray:
    if decoded_hw is None:
        return np.full(4, np.nan)
    scale_xy, shift_xy = stored_from_image[(0, 1), (0, 1)], stored_from_image[:2, 2]
    # The edges lie half a pixel outside the centres of the first and the last pixel.
    first_xy = (-0.5 - shift_xy) / scale_xy + 0.5
    last_xy = (np.array(decoded_hw[::-1]) - 0.5 - shift_xy) / scale_xy - 0.5
    return np.concatenate([first_xy, last_xy - first_xy])


def find_exact_duplicates(labels_by_split: Mapping[str, Arrays]) -> dict[str, IssuesByType]:
    """Find images with identical bytes: under two names in one split, or in two splits."""
    first_rows = {name: _index_rows_by_sha256(labels) for name, labels in labels_by_split.items()}
    issues: dict[str, IssuesByType] = {}
    for name, labels in labels_by_split.items():
        others = [(other, rows) for other, rows in first_rows.items() if other != name]
        in_other_split = [
            DatasetIssue(
                row,
                image,
                _format_other_location(labels_by_split, other, rows[sha256]),
                similar_to=(other, rows[sha256]),
            )
            for sha256, row in first_rows[name].items()
            for image in [str(labels["image"][row])]
            for other, rows in others
            if sha256 in rows
        ]
        issues[name] = {
            IssueType.IMAGE_IN_OTHER_SPLIT: in_other_split,
            IssueType.DUPLICATE_IMAGE: list(_find_renamed_duplicates(labels, first_rows[name])),
        }
    return issues


def _index_rows_by_sha256(labels: Arrays) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, sha256 in enumerate(labels["sha256"].tolist()):
        rows.setdefault(sha256, row)
    return rows


def _format_other_location(labels_by_split: Mapping[str, Arrays], split: str, row: int) -> str:
    return f"in {split} as {labels_by_split[split]['image'][row]}"


def _find_renamed_duplicates(labels: Arrays, first_row_by_sha256: dict[str, int]) -> Iterator[DatasetIssue]:
    reported = set()
    for row, (sha256, image) in enumerate(zip(labels["sha256"].tolist(), labels["image"].tolist(), strict=True)):
        original = labels["image"][first_row_by_sha256[sha256]]
        if image != original and image not in reported:
            reported.add(image)
            yield DatasetIssue(row, image, f"as {original}")


def find_near_duplicates(
    labels_by_split: Mapping[str, Arrays], images_by_split: Mapping[str, StoredImages]
) -> dict[str, IssuesByType]:
    """Find for each image the most similar one with other bytes, if any is similar."""
    names = list(labels_by_split)
    split_index = np.concatenate([np.full(len(labels_by_split[n]["id"]), index) for index, n in enumerate(names)])
    row = np.concatenate([np.arange(len(labels_by_split[n]["id"])) for n in names])
    sha256 = np.concatenate([labels_by_split[n]["sha256"] for n in names])
    _, image_index = np.unique(sha256, return_inverse=True)
    hashes = np.concatenate([images_by_split[n].hashes for n in names])
    is_hash_valid = np.concatenate([images_by_split[n].is_hash_valid for n in names])
    issues: dict[str, IssuesByType] = {
        n: {IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT: [], IssueType.NEAR_DUPLICATE_IMAGE: []} for n in names
    }
    for kind in (IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT, IssueType.NEAR_DUPLICATE_IMAGE):
        across_splits = kind is IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT
        partner, bits = _find_nearest_hashes(
            hashes, is_hash_valid, image_index, split_index, across_splits=across_splits
        )
        for index in _select_one_per_image(partner, bits, image_index, split_index):
            split, other = names[split_index[index]], int(partner[index])
            other_split = names[split_index[other]]
            other_label = format_instance_label(labels_by_split[other_split], int(row[other]))
            if across_splits:
                other_label = f"{other_split} {other_label}"
            issue = DatasetIssue(
                int(row[index]),
                format_instance_label(labels_by_split[split], int(row[index])),
                f"like {other_label}, {bits[index]} of 128 bits differ",
                similar_to=(other_split, int(row[other])),
            )
            issues[split][kind].append(issue)
    return issues


def _select_one_per_image(
    partner: np.ndarray, hash_distance: np.ndarray, image_index: np.ndarray, split_index: np.ndarray
) -> list[int]:
    """Select one row per image, the most similar first."""
    rows = np.flatnonzero(partner >= 0)
    mutual = (partner[partner[rows]] == rows) & (split_index[rows] == split_index[partner[rows]])
    rows = rows[~mutual | (rows > partner[rows])]  # report the later of two
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
    """Find the most similar row of another image, in another split or in the same one.

    Sorting brings rows with an equal part of the hash together, and only neighbours are compared,
    so memory grows with the rows, not with the pairs. In a video with thousands of frames that
    share a part, each row is compared with MAX_NEIGHBORS_PER_BAND random ones.

    Returns:
        The row, int64 [N], -1 for none; and the number of different bits.
    """
    partner, fewest = np.full(len(hashes), -1), np.full(len(hashes), MAX_HASH_DISTANCE + 1)
    parts = hashes.view(np.uint16)  # [N, 8]
    words = hashes.view(np.uint64)  # [N, 2]
    shuffled = np.random.default_rng(0).permutation(np.flatnonzero(is_hash_valid))
    for band in range(HASH_BANDS):
        order = shuffled[np.argsort(parts[shuffled, band], kind="stable")]
        key = parts[order, band]
        for step in range(1, min(len(order), MAX_NEIGHBORS_PER_BAND + 1)):
            same_key = np.flatnonzero(key[step:] == key[:-step])
            if not len(same_key):
                break
            a, b = order[same_key], order[same_key + step]
            bits = np.bitwise_count(words[a] ^ words[b]).sum(1)
            is_candidate = (image_index[a] != image_index[b]) & ((split_index[a] != split_index[b]) == across_splits)
            for row, other in ((a, b), (b, a)):
                better = is_candidate & (bits < fewest[row])  # `row` is unique
                partner[row[better]], fewest[row[better]] = other[better], bits[better]
    return partner, fewest
