"""Labels and images in, a prepared data set out.

Each split is parted into shards; who makes them is not known here: threads of this process
(`make_here`), or the tasks of a cluster (hrnet_ray/distributed/data/shard_tasks.py).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from joblib import cpu_count

from hrnet_ray.data import records
from hrnet_ray.data.annotations import AnnotationSet, SkippedItem, build_count_note
from hrnet_ray.data.manifest import DatasetManifest, RowKind, ShardInfo, SplitInfo, write_manifest
from hrnet_ray.data.resume_journal import ShardCache, compute_shard_key
from hrnet_ray.data.shards import (
    MAX_ROWS_PER_SHARD,
    ROWS_PER_SHARD,
    SHARD_NAME_FORMAT,
    DoneCallback,
    ProgressCallback,
    ShardResult,
    ShardTask,
    write_shard,
)
from hrnet_ray.data.splits import (
    SplitSource,
    collect_image_stamps,
    find_missing_images,
    get_common_skeleton,
    make_corrupt_images_error,
    make_empty_split_error,
)
from hrnet_ray.data.storage import (
    PARTIAL_SUFFIX,
    FileStamp,
    PathOrUri,
    StorageDir,
    open_storage_dir,
)
from hrnet_ray.errors import ClusterError, DataError, UsageError, format_list

ROW_KIND_BY_SPLIT: dict[str, RowKind] = {"train": "region", "val": "exact", "test": "exact"}

ShardsWriter = Callable[[Sequence[ShardTask], DoneCallback], Iterable[ShardResult]]
"""Makes shards, and hands out their reports in any order, as they come."""


def write_shards_locally(tasks: Sequence[ShardTask], on_done: DoneCallback) -> Iterator[ShardResult]:
    """Make shards in this process, one after the other, each by all cores."""
    for task in tasks:
        yield write_shard(task, num_threads=cpu_count(), on_done=on_done)


def prepare_dataset(
    sources: Mapping[str, SplitSource],
    *,
    out: PathOrUri,
    name: str,
    canvas_px: int = records.CANVAS_PX,
    rows_per_shard: int = ROWS_PER_SHARD,
    store_full_images: bool = False,
    skip_missing: bool = False,
    skip_corrupt: bool = False,
    write_shards: ShardsWriter = write_shards_locally,
    make_progress: Callable[[str], ProgressCallback] | None = None,
    log_message: Callable[[str], None] = lambda _: None,
) -> DatasetManifest:
    """Write `train` as regions and `val` as untouched files, then the manifest.

    Shards that an earlier, stopped time finished stay. With `exact`, `train` holds untouched files
    too. The version of the data does not depend on `shard_rows`, `make` or `out`.

    Raises:
        DataError: images are missing or broken, or the splits are of different skeletons.
        ClusterError: a storage does not work.
    """
    if not 1 <= rows_per_shard <= MAX_ROWS_PER_SHARD:
        raise UsageError(
            "a shard of no size",
            f"--rows-per-shard {rows_per_shard:,}",
            f"1 to {MAX_ROWS_PER_SHARD:,} rows",
        )
    folder = open_storage_dir(out, "--out")
    if folder.is_local and Path(folder.path).is_file():
        raise DataError("a file where a folder is wanted", f"--out {out}", "give a folder")
    skeleton = get_common_skeleton(sources)
    # Before anything that is there already is touched:
    stamps = {split: collect_image_stamps(source, skip_missing=skip_missing) for split, source in sources.items()}
    folder.make_dir("--out")
    folder.delete_file("manifest.json")  # until the new one vouches, nothing does
    making = _MissingShardWriter(folder, write_shards, make_progress, log_message)
    splits, skipped = {}, []
    for split, source in sources.items():
        kind: RowKind = "exact" if store_full_images else ROW_KIND_BY_SPLIT[split]
        planned = build_shard_tasks(source, stamps[split], folder, split, kind, canvas_px, rows_per_shard)
        reports = making.write_missing_shards(split, planned)
        broken = [thing for report in reports for thing in report.skipped]
        if broken and not skip_corrupt:
            raise make_corrupt_images_error(broken, source)
        missing = find_missing_images(source, stamps[split])
        left_out = [*source.labels.skipped, *missing, *broken]
        splits[split] = _build_split_info(source.labels, kind, reports, left_out)
        skipped += [(split, thing) for thing in left_out]
    manifest = DatasetManifest(root=folder.root, name=name, skeleton=skeleton, canvas_px=canvas_px, splits=splits)
    write_manifest(manifest, skipped)
    return manifest


def build_shard_tasks(
    source: SplitSource,
    stamps: Mapping[str, FileStamp],
    out: StorageDir,
    split: str,
    kind: RowKind,
    canvas_px: int,
    rows_per_shard: int,
) -> list[tuple[ShardTask, str]]:
    """The shards of a split in the order of the annotations, each with its key.

    The `i`-th is of the instances from `i * shard_rows` on; those without an image are left out.
    """
    images = open_storage_dir(source.images, "--images")
    instances = source.labels.instances
    planned = []
    for first in range(0, len(instances), rows_per_shard):
        task = ShardTask(
            file=f"{split}/{SHARD_NAME_FORMAT.format(first // rows_per_shard)}",
            instances=[i for i in instances[first : first + rows_per_shard] if i.image in stamps],
            images=images,
            out=out,
            kind=kind,
            canvas_px=canvas_px,
            skeleton=source.labels.skeleton,
        )
        planned.append((task, compute_shard_key(task, stamps)))
    return planned


class _MissingShardWriter:
    """Makes the shards that are not there yet."""

    def __init__(
        self,
        out: StorageDir,
        write_shards: ShardsWriter,
        make_progress: Callable[[str], ProgressCallback] | None,
        log_message: Callable[[str], None],
    ) -> None:
        self.out, self.write_shards, self.make_progress, self.log_message = (
            out,
            write_shards,
            make_progress,
            log_message,
        )
        self.cache = ShardCache(out)
        self.cache.load_index()

    def write_missing_shards(self, split: str, planned: list[tuple[ShardTask, str]]) -> list[ShardResult]:
        """Reports of all planned shards, in their order."""
        keys = {task.file: key for task, key in planned}
        found = {task.file: self.cache.get_result(task.file, key) for task, key in planned}
        done = {file: report for file, report in found.items() if report}
        other = self._delete_stale_shards(split, done)
        if done:
            self.log_message(f"{split}: {len(done):,} of {len(planned):,} shards are there already")
        elif other:
            self.log_message(f"{split}: the shards that are there are of another plan; all are made anew")
        todo = [task for task, _ in planned if task.file not in done]
        for task in todo:
            self.cache.delete_result(task.file)
        count = _ProgressCounter(sum(len(task.instances) for task in todo))
        made = self.write_shards(todo, count)
        if todo and self.make_progress:  # its clock starts here, with Ray's start behind it
            count.callback = self.make_progress(split)
        for report in made:
            if report.rows and self.out.get_file_size(report.file) != report.bytes:
                raise _make_not_shared_error(self.out, report)
            self.cache.put_result(report, keys[report.file])
            done[report.file] = report
        return [done[task.file] for task, _ in planned]

    def _delete_stale_shards(self, split: str, finished: Mapping[str, ShardResult]) -> int:
        """Remove the shards of another plan, and count them. Other files stay."""
        self.out.make_dir("--out", split)
        removed = 0
        for old in self.out.list_files(split):
            shard, file = old.split(".")[0], f"{split}/{old}"
            ours = len(shard) >= 5 and shard.isdigit() and old.endswith((".parquet", PARTIAL_SUFFIX))
            if ours and file not in finished:
                self.out.delete_file(file)
                removed += 1
        return removed


class _ProgressCounter:
    """Adds up the finished rows and reports them to the progress callback."""

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total
        self.callback: ProgressCallback | None = None

    def __call__(self, num_new: int) -> None:
        self.done += num_new
        if self.callback:
            self.callback(self.done, self.total)


def _make_not_shared_error(out: StorageDir, report: ShardResult) -> ClusterError:
    return ClusterError(
        "a shard that was written, but is not here",
        f"{out.get_uri(report.file)}: {report.bytes:,} bytes were written by a task on the cluster",
        "give --out a folder that all machines share, or a URI such as s3://bucket/folder",
    )


def _build_split_info(
    labels: AnnotationSet, kind: RowKind, reports: Sequence[ShardResult], skipped: list[SkippedItem]
) -> SplitInfo:
    written = sum(report.rows for report in reports)
    if not written:
        raise make_empty_split_error(labels, skipped)
    assert labels.num_read == written + len(skipped), "an instance was lost on the way to its shard"
    digests = "".join(digest for report in reports for digest in report.row_digests)
    return SplitInfo(
        kind=kind,
        source=labels.source.name,
        read=labels.num_read,
        rows=written,
        skipped=len(skipped),
        digest=hashlib.sha256(digests.encode()).hexdigest(),
        shards=[
            ShardInfo(file=report.file, rows=report.rows, bytes=report.bytes, sha256=report.sha256)
            for report in reports
            if report.rows
        ],
        notes=[
            *labels.notes,
            *_describe_exif_rotations(reports),
            *_describe_size_mismatches(reports),
        ],
    )


def _describe_size_mismatches(reports: Sequence[ShardResult]) -> list[str]:
    """A note on images that were resized, or exchanged, after they were labelled."""
    names = sorted({name for report in reports for name in report.size_mismatched})
    return build_count_note(names, "images have another size than the annotations tell, so labels may lie elsewhere")


def _describe_exif_rotations(reports: Sequence[ShardResult]) -> list[str]:
    """What to know where labels may have been made on another view of an image."""
    names = sorted({name for report in reports for name in report.exif_rotated})
    if not names:
        return []
    what = f"{len(names):,} images ask to be shown turned (EXIF), and are read as stored"
    return [f"{what}: do their labels fit? {format_list(names)}"]
