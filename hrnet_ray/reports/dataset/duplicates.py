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
from hrnet_ray.data.manifest import Manifest, open_shard
from hrnet_ray.data.records import Arrays, cut_region
from hrnet_ray.data.shards import Progress
from hrnet_ray.reports.dataset.issues import Findings, Kind, Spot, pose_name

READ_ROWS = 32
"""Pictures that are in memory at once."""
GRID = 8
"""A look is 8 x 8 comparisons of neighbours to the right and as many downwards: 128 bits."""
ALIKE_BITS = 7
"""Looks that differ in so many bits, or fewer, belong to the same scene, or nearly."""
BANDS = 8
"""At least one of 8 parts of two looks is the same where 7 bits at most differ."""
NEIGHBOURS = 128
"""So many rows that share a part of their look are compared in full with each one."""
FLAT = 4.0
"""Grey levels of spread, below which a look says nothing."""


class Stored(NamedTuple):
    """What was found on opening the pictures of one split, in the order of its rows."""

    xywh: np.ndarray
    """float64 [N, 4]: what of its picture a row keeps; NaN for bytes that are no picture.
    As with boxes, x + w is the last pixel, not the one after it."""
    looks: np.ndarray
    """uint8 [N, 16]."""
    telling: np.ndarray
    """bool [N]: the picture is there and not flat, so its look says something."""


def open_stored(manifest: Manifest, split: str, progress: Progress | None = None) -> Stored:
    """Open the picture of every row, some at a time."""
    parts, total, done = [], manifest.splits[split].rows, 0
    # A whole file is cut like a region, so that the two can be compared.
    canvas_px = manifest.canvas_px if manifest.splits[split].kind == "exact" else None
    look = partial(_look, canvas_px=canvas_px)
    with ThreadPoolExecutor(cpu_count()) as pool:
        for batch in _batches(manifest, split):
            rows = range(batch.num_rows)
            datas = [data.as_py() for data in batch["picture"]]
            matrices, boxes = _folded(batch["stored_from_image"], 3, 3), _folded(batch["box_xywh"])
            seen = list(pool.map(look, datas, boxes))
            done += len(rows)
            if progress:
                progress(done, total)
            xywh = np.array([_kept(seen[at][0], matrices[at]) for at in rows])
            parts.append((xywh, [look for _, look, _ in seen], [tells for *_, tells in seen]))
    xywh, looks, telling = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Stored(xywh, looks, telling)


def _batches(manifest: Manifest, split: str) -> Iterator[pa.RecordBatch]:
    columns = ["picture", "stored_from_image", "box_xywh"]
    for shard in manifest.shards(split):
        with open_shard(manifest, shard) as file:
            yield from file.iter_batches(READ_ROWS, columns=columns)


def _folded(column: pa.Array, *inner: int) -> np.ndarray:
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), *(inner or (-1,)))


def _look(
    data: bytes, box_xywh: np.ndarray, *, canvas_px: int | None
) -> tuple[tuple[int, int] | None, np.ndarray, bool]:
    """Size, look, and whether that says anything, of the region that training would see."""
    picture = codec.decode(data)
    if picture is None:
        return None, np.zeros(2 * GRID, np.uint8), False
    height, width = picture.shape[:2]
    if canvas_px:
        x, y, w, h = box_xywh.tolist()
        picture, _ = cut_region(picture, (x, y, w, h), canvas_px=canvas_px)
    return (height, width), *look_of(picture)


def look_of(picture: np.ndarray) -> tuple[np.ndarray, bool]:
    """128 bits that stay when an RGB picture is compressed, resized or brightened: uint8 [16]."""
    small = cv2.resize(picture, (GRID + 1, GRID + 1), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.int16)
    across = grey[:GRID, 1:] > grey[:GRID, :-1]
    down = grey[1:, :GRID] > grey[:-1, :GRID]
    return np.packbits(np.stack([across, down])), bool(grey.std() >= FLAT)


def _kept(size_hw: tuple[int, int] | None, stored_from_image: np.ndarray) -> np.ndarray:
    if size_hw is None:
        return np.full(4, np.nan)
    scale_xy, shift_xy = stored_from_image[(0, 1), (0, 1)], stored_from_image[:2, 2]
    # Edges lie half a pixel outside of the first and the last pixel's middle.
    first_xy = (-0.5 - shift_xy) / scale_xy + 0.5
    last_xy = (np.array(size_hw[::-1]) - 0.5 - shift_xy) / scale_xy - 0.5
    return np.concatenate([first_xy, last_xy - first_xy])


def copies(splits: Mapping[str, Arrays]) -> dict[str, Findings]:
    """Pictures of the same bytes: under two names in one split, or in two splits."""
    first = {name: _first_rows(labels) for name, labels in splits.items()}
    found: dict[str, Findings] = {}
    for name, labels in splits.items():
        others = [(other, rows) for other, rows in first.items() if other != name]
        in_both = [
            Spot(row, image, _as(splits, other, rows[sha256]), other=(other, rows[sha256]))
            for sha256, row in first[name].items()
            for image in [str(labels["image"][row])]
            for other, rows in others
            if sha256 in rows
        ]
        found[name] = {Kind.IN_BOTH: in_both, Kind.COPIES: list(_renamed(labels, first[name]))}
    return found


def _first_rows(labels: Arrays) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, sha256 in enumerate(labels["sha256"].tolist()):
        rows.setdefault(sha256, row)
    return rows


def _as(splits: Mapping[str, Arrays], split: str, row: int) -> str:
    return f"in {split} as {splits[split]['image'][row]}"


def _renamed(labels: Arrays, first: dict[str, int]) -> Iterator[Spot]:
    named = set()
    for row, (sha256, image) in enumerate(
        zip(labels["sha256"].tolist(), labels["image"].tolist(), strict=True)
    ):
        original = labels["image"][first[sha256]]
        if image != original and image not in named:
            named.add(image)
            yield Spot(row, image, f"as {original}")


def lookalikes(splits: Mapping[str, Arrays], stored: Mapping[str, Stored]) -> dict[str, Findings]:
    """For each picture the one of other bytes that looks most like it, where one is like it."""
    names = list(splits)
    home = np.concatenate([np.full(len(splits[n]["id"]), at) for at, n in enumerate(names)])
    row = np.concatenate([np.arange(len(splits[n]["id"])) for n in names])
    sha256 = np.concatenate([splits[n]["sha256"] for n in names])
    _, picture = np.unique(sha256, return_inverse=True)
    looks = np.concatenate([stored[n].looks for n in names])
    telling = np.concatenate([stored[n].telling for n in names])
    found: dict[str, Findings] = {n: {Kind.LIKE_OTHER: [], Kind.ALIKE: []} for n in names}
    for kind, groups in ((Kind.LIKE_OTHER, home), (Kind.ALIKE, None)):
        partner, bits = _nearest(looks, telling, picture, home, apart=groups is not None)
        for one in _one_a_picture(partner, bits, picture, home):
            split, other = names[home[one]], int(partner[one])
            there = names[home[other]]
            name = pose_name(splits[there], int(row[other]))
            detail = f"like {there} {name}" if kind is Kind.LIKE_OTHER else f"like {name}"
            spot = Spot(
                int(row[one]),
                pose_name(splits[split], int(row[one])),
                f"{detail}, {bits[one]} of 128 bits differ",
                other=(there, int(row[other])),
            )
            found[split][kind].append(spot)
    return found


def _one_a_picture(
    partner: np.ndarray, bits: np.ndarray, picture: np.ndarray, home: np.ndarray
) -> list[int]:
    """The most alike first; one instance speaks for its picture."""
    rows = np.flatnonzero(partner >= 0)
    mutual = (partner[partner[rows]] == rows) & (home[rows] == home[partner[rows]])
    rows = rows[~mutual | (rows > partner[rows])]  # the later one is like the earlier
    rows = rows[np.argsort(bits[rows], kind="stable")]
    _, first = np.unique(picture[rows], return_index=True)
    return rows[np.sort(first)].tolist()


def _nearest(
    looks: np.ndarray, telling: np.ndarray, picture: np.ndarray, home: np.ndarray, *, apart: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The most alike row of another picture, in another split (`apart`) or in the same one.

    Rows that share one of 8 parts of their look come together by sorting; then only neighbours are
    compared, so that memory grows with the rows and not with their pairs. Of a film whose thousands
    of frames share a part, each meets `NEIGHBOURS` others, drawn by lot, and the best of them.

    Returns:
        int64 [N], -1 for none; and the number of bits that differ.
    """
    partner, fewest = np.full(len(looks), -1), np.full(len(looks), ALIKE_BITS + 1)
    parts = looks.view(np.uint16)  # [N, 8]
    words = looks.view(np.uint64)  # [N, 2]
    lot = np.random.default_rng(0).permutation(np.flatnonzero(telling))
    for band in range(BANDS):
        order = lot[np.argsort(parts[lot, band], kind="stable")]
        key = parts[order, band]
        for step in range(1, min(len(order), NEIGHBOURS + 1)):
            near = np.flatnonzero(key[step:] == key[:-step])
            if not len(near):
                break
            a, b = order[near], order[near + step]
            bits = np.bitwise_count(words[a] ^ words[b]).sum(1)
            fits = (picture[a] != picture[b]) & ((home[a] != home[b]) == apart)
            for one, other in ((a, b), (b, a)):
                better = fits & (bits < fewest[one])  # `one` has no row twice
                partner[one[better]], fewest[one[better]] = other[better], bits[better]
    return partner, fewest
