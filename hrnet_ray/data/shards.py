"""The unit of work of `prepare`: some instances in, one Parquet file out.

A shard is a pure function of its task, so it does not matter who makes it, when, or beside what.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hrnet_ray.data import records
from hrnet_ray.data.annotations import PoseInstance, SkippedItem, SkipReason
from hrnet_ray.data.images import codec
from hrnet_ray.data.images.headers import has_exif_orientation
from hrnet_ray.data.manifest import RowKind
from hrnet_ray.data.storage import StorageDir, format_error_message
from hrnet_ray.skeletons import Skeleton, to_dict

ROWS_PER_SHARD = 256
MAX_ROWS_PER_SHARD = 2**16
"""Of one shard: a footer that claims more is not ours."""
ROWS_PER_ROW_GROUP = 64
SHARD_NAME_FORMAT = "{:05d}.parquet"

DECODER_CRASH_REASON = "crashes the decoder"
"""Why an image is left out that kills the process that decodes it."""

ProgressCallback = Callable[[int, int], None]
"""Called with how many are done, of how many."""
DoneCallback = Callable[[int], None]
"""Called with how many instances more are done."""


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """All that it takes to make one shard."""

    file: str
    """Below `out`."""
    instances: list[PoseInstance]
    images: StorageDir
    out: StorageDir
    kind: RowKind
    canvas_px: int
    skeleton: Skeleton


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What was made. A shard in which nothing was left has no file, and a size of 0."""

    file: str
    rows: int
    bytes: int
    sha256: str
    row_digests: list[str]
    """sha256 of each row's labels, and of its image file as it was found."""
    skipped: list[SkippedItem]
    exif_rotated: list[str] = field(default_factory=list)
    """Images with an EXIF orientation, which is ignored."""
    size_mismatched: list[str] = field(default_factory=list)
    """Images of another size than the annotations state, with both sizes."""


def write_shard(task: ShardTask, *, num_threads: int = 1, on_done: DoneCallback | None = None) -> ShardResult:
    """Make one shard and put it in its place.

    Raises:
        DataError: a name leads out of the folder of images.
        ClusterError: a storage does not work.
    """
    digests: list[str] = []
    skipped: list[SkippedItem] = []
    turned: set[str] = set()
    resized: set[str] = set()
    sink = pa.BufferOutputStream()
    made = _iter_rows(task, num_threads, skipped, turned, resized, on_done or (lambda _: None))
    shape = records.build_arrow_schema(len(task.skeleton)).with_metadata(
        {"skeleton": json.dumps(to_dict(task.skeleton))}
    )
    # Images are compressed already; a column of JPEGs gains nothing from another pass.
    with pq.ParquetWriter(sink, shape, compression="none") as writer:
        while batch := list(islice(made, ROWS_PER_ROW_GROUP)):
            digests += map(_hash_row, batch)
            writer.write_table(pa.Table.from_pylist(batch, schema=shape))
    data = sink.getvalue()
    if digests:
        task.out.write_bytes(task.file, data)
    return ShardResult(
        file=task.file,
        rows=len(digests),
        bytes=data.size if digests else 0,
        sha256=hashlib.sha256(data).hexdigest(),
        row_digests=digests,
        skipped=skipped,
        exif_rotated=sorted(turned),
        size_mismatched=sorted(resized),
    )


def _hash_row(row: dict[str, Any]) -> str:
    """Of what was read, not of what an encoder made of it: another OpenCV, the same version."""
    labels = {key: value for key, value in row.items() if key not in ("picture", "stored_sha256")}
    return hashlib.sha256(json.dumps(labels, sort_keys=True).encode()).hexdigest()


def _iter_rows(
    task: ShardTask,
    num_threads: int,
    skipped: list[SkippedItem],
    exif_rotated: set[str],
    size_mismatched: set[str],
    on_done: DoneCallback,
) -> Iterator[dict[str, Any]]:
    """Rows in the order of the annotations. OpenCV lets go of the GIL, so threads help."""
    same = (list(group) for _, group in groupby(task.instances, lambda found: found.image))
    with ThreadPoolExecutor(num_threads) if num_threads > 1 else nullcontext() as pool:
        run = pool.map if pool else map
        while window := list(islice(same, 8 * num_threads)):  # bounds what waits in memory
            for made in run(lambda group: _build_image_rows(task, group, exif_rotated, size_mismatched), window):
                for each in made:
                    on_done(1)
                    if isinstance(each, SkippedItem):
                        skipped.append(each)
                    else:
                        yield each


def _build_image_rows(
    task: ShardTask,
    instances: list[PoseInstance],
    exif_rotated: set[str],
    size_mismatched: set[str],
) -> list[dict[str, Any] | SkippedItem]:
    """The rows of neighbours in one image, which is read and decoded once."""
    name = instances[0].image
    try:
        data = task.images.read_image_bytes(name)
    except OSError as error:  # no right to read it, or gone since
        return [SkippedItem(name, SkipReason.CORRUPT_IMAGE, format_error_message(error))] * len(instances)
    picture = codec.decode_or_reject(data)
    if isinstance(picture, codec.RejectedImage):
        return [SkippedItem(name, picture.reason, picture.detail)] * len(instances)
    if has_exif_orientation(data):
        exif_rotated.add(name)
    elif (told := instances[0].annotated_wh) and told != picture.shape[1::-1]:
        height, width = picture.shape[:2]
        size_mismatched.add(f"{name} ({width} x {height}, told {told[0]:g} x {told[1]:g})")
    if task.kind == "exact":
        return [records.build_full_image_record(instance, data) for instance in instances]
    return [records.build_cropped_record(instance, data, picture, canvas_px=task.canvas_px) for instance in instances]
