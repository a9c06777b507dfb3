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
from hrnet_ray.data.annotations import Instance, Reason, Skipped
from hrnet_ray.data.images import codec
from hrnet_ray.data.images.headers import asks_to_be_turned
from hrnet_ray.data.manifest import Kind
from hrnet_ray.data.storage import Folder, message_of
from hrnet_ray.skeletons import Skeleton, to_dict

SHARD_ROWS = 256
MOST_ROWS = 2**16
"""Of one shard: a footer that claims more is not ours."""
ROW_GROUP_ROWS = 64
SHARD_NAME = "{:05d}.parquet"

CRASHES = "crashes the decoder"
"""Why a picture is left out that kills the process that decodes it."""

Progress = Callable[[int, int], None]
"""Called with how many are done, of how many."""
Tell = Callable[[int], None]
"""Called with how many instances more are done."""


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """All that it takes to make one shard."""

    file: str
    """Below `out`."""
    instances: list[Instance]
    images: Folder
    out: Folder
    kind: Kind
    canvas_px: int
    skeleton: Skeleton


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What was made. A shard in which nothing was left has no file, and a size of 0."""

    file: str
    rows: int
    bytes: int
    sha256: str
    row_digests: list[str]
    """sha256 of each row's labels, and of its picture file as it was found."""
    skipped: list[Skipped]
    turned: list[str] = field(default_factory=list)
    """Pictures that ask to be shown turned, which nobody here does."""
    resized: list[str] = field(default_factory=list)
    """Pictures of another size than the annotations tell, with both sizes."""


def write_shard(task: ShardTask, *, threads: int = 1, tell: Tell | None = None) -> ShardReport:
    """Make one shard and put it in its place.

    Raises:
        DataError: a name leads out of the folder of pictures.
        ClusterError: a storage does not work.
    """
    digests: list[str] = []
    skipped: list[Skipped] = []
    turned: set[str] = set()
    resized: set[str] = set()
    sink = pa.BufferOutputStream()
    made = _rows(task, threads, skipped, turned, resized, tell or (lambda _: None))
    shape = records.schema(len(task.skeleton)).with_metadata(
        {"skeleton": json.dumps(to_dict(task.skeleton))}
    )
    # Pictures are compressed already; a column of JPEGs gains nothing from another pass.
    with pq.ParquetWriter(sink, shape, compression="none") as writer:
        while batch := list(islice(made, ROW_GROUP_ROWS)):
            digests += map(_row_digest, batch)
            writer.write_table(pa.Table.from_pylist(batch, schema=shape))
    data = sink.getvalue()
    if digests:
        task.out.write_bytes(task.file, data)
    return ShardReport(
        file=task.file,
        rows=len(digests),
        bytes=data.size if digests else 0,
        sha256=hashlib.sha256(data).hexdigest(),
        row_digests=digests,
        skipped=skipped,
        turned=sorted(turned),
        resized=sorted(resized),
    )


def _row_digest(row: dict[str, Any]) -> str:
    """Of what was read, not of what an encoder made of it: another OpenCV, the same version."""
    labels = {key: value for key, value in row.items() if key not in ("picture", "stored_sha256")}
    return hashlib.sha256(json.dumps(labels, sort_keys=True).encode()).hexdigest()


def _rows(
    task: ShardTask,
    threads: int,
    skipped: list[Skipped],
    turned: set[str],
    resized: set[str],
    tell: Tell,
) -> Iterator[dict[str, Any]]:
    """Rows in the order of the annotations. OpenCV lets go of the GIL, so threads help."""
    same = (list(group) for _, group in groupby(task.instances, lambda found: found.image))
    with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
        run = pool.map if pool else map
        while window := list(islice(same, 8 * threads)):  # bounds what waits in memory
            for made in run(lambda group: _rows_of_picture(task, group, turned, resized), window):
                for each in made:
                    tell(1)
                    if isinstance(each, Skipped):
                        skipped.append(each)
                    else:
                        yield each


def _rows_of_picture(
    task: ShardTask, instances: list[Instance], turned: set[str], resized: set[str]
) -> list[dict[str, Any] | Skipped]:
    """The rows of neighbours in one picture, which is read and decoded once."""
    name = instances[0].image
    try:
        data = task.images.read_picture(name)
    except OSError as error:  # no right to read it, or gone since
        return [Skipped(name, Reason.BROKEN_PICTURE, message_of(error))] * len(instances)
    picture = codec.open_picture(data)
    if isinstance(picture, codec.Refused):
        return [Skipped(name, picture.reason, picture.detail)] * len(instances)
    if asks_to_be_turned(data):
        turned.add(name)
    elif (told := instances[0].told_wh) and told != picture.shape[1::-1]:
        height, width = picture.shape[:2]
        resized.add(f"{name} ({width} x {height}, told {told[0]:g} x {told[1]:g})")
    if task.kind == "exact":
        return [records.exact_row(instance, data) for instance in instances]
    return [
        records.region_row(instance, data, picture, canvas_px=task.canvas_px)
        for instance in instances
    ]
