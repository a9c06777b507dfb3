"""Labels and pictures in, a prepared data set out.

Each split is parted into shards; who makes them is not known here: threads of this process
(`make_here`), or the tasks of a cluster (hrnet_ray/distributed/data/shard_tasks.py).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from joblib import cpu_count

from hrnet_ray.data import records
from hrnet_ray.data.annotations import Labels, Skipped
from hrnet_ray.data.manifest import Kind, Manifest, Shard, Split, write_manifest
from hrnet_ray.data.resume_journal import Journal, key_of
from hrnet_ray.data.shards import (
    MOST_ROWS,
    SHARD_NAME,
    SHARD_ROWS,
    Progress,
    ShardReport,
    ShardTask,
    Tell,
    write_shard,
)
from hrnet_ray.data.splits import (
    Source,
    are_broken,
    check_pictures,
    missing_pictures,
    nothing_left,
    shared_skeleton,
)
from hrnet_ray.data.storage import PART, Folder, Place, Stamp, open_folder
from hrnet_ray.errors import ClusterError, DataError, UsageError, shortened

KINDS: dict[str, Kind] = {"train": "region", "val": "exact", "test": "exact"}

Make = Callable[[Sequence[ShardTask], Tell], Iterable[ShardReport]]
"""Makes shards, and hands out their reports in any order, as they come."""


def make_here(tasks: Sequence[ShardTask], tell: Tell) -> Iterator[ShardReport]:
    """Make shards in this process, one after the other, each by all cores."""
    for task in tasks:
        yield write_shard(task, threads=cpu_count(), tell=tell)


def prepare(
    sources: Mapping[str, Source],
    *,
    out: Place,
    name: str,
    canvas_px: int = records.CANVAS_PX,
    shard_rows: int = SHARD_ROWS,
    exact: bool = False,
    skip_missing: bool = False,
    skip_broken: bool = False,
    make: Make = make_here,
    progress: Callable[[str], Progress] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Write `train` as regions and `val` as untouched files, then the manifest.

    Shards that an earlier, stopped time finished stay. With `exact`, `train` holds untouched files
    too. The version of the data does not depend on `shard_rows`, `make` or `out`.

    Raises:
        DataError: pictures are missing or broken, or the splits are of different skeletons.
        ClusterError: a storage does not work.
    """
    if not 1 <= shard_rows <= MOST_ROWS:
        raise UsageError(
            "a shard of no size", f"--shard-rows {shard_rows:,}", f"1 to {MOST_ROWS:,} rows"
        )
    folder = open_folder(out, "--out")
    if folder.is_local and Path(folder.path).is_file():
        raise DataError("a file where a folder is wanted", f"--out {out}", "give a folder")
    skeleton = shared_skeleton(sources)
    # Before anything that is there already is touched:
    stamps = {
        split: check_pictures(source, skip_missing=skip_missing)
        for split, source in sources.items()
    }
    folder.make("--out")
    folder.delete("manifest.json")  # until the new one vouches, nothing does
    making = _Making(folder, make, progress, say)
    splits, skipped = {}, []
    for split, source in sources.items():
        kind: Kind = "exact" if exact else KINDS[split]
        planned = plan(source, stamps[split], folder, split, kind, canvas_px, shard_rows)
        reports = making.of(split, planned)
        broken = [thing for report in reports for thing in report.skipped]
        if broken and not skip_broken:
            raise are_broken(broken, source)
        missing = missing_pictures(source, stamps[split])
        left_out = [*source.labels.skipped, *missing, *broken]
        splits[split] = _split(source.labels, kind, reports, left_out)
        skipped += [(split, thing) for thing in left_out]
    manifest = Manifest(
        root=folder.root, name=name, skeleton=skeleton, canvas_px=canvas_px, splits=splits
    )
    write_manifest(manifest, skipped)
    return manifest


def plan(
    source: Source,
    stamps: Mapping[str, Stamp],
    out: Folder,
    split: str,
    kind: Kind,
    canvas_px: int,
    shard_rows: int,
) -> list[tuple[ShardTask, str]]:
    """The shards of a split in the order of the annotations, each with its key.

    The `i`-th is of the instances from `i * shard_rows` on; those without a picture are left out.
    """
    images = open_folder(source.images, "--images")
    instances = source.labels.instances
    planned = []
    for first in range(0, len(instances), shard_rows):
        task = ShardTask(
            file=f"{split}/{SHARD_NAME.format(first // shard_rows)}",
            instances=[i for i in instances[first : first + shard_rows] if i.image in stamps],
            images=images,
            out=out,
            kind=kind,
            canvas_px=canvas_px,
            skeleton=source.labels.skeleton,
        )
        planned.append((task, key_of(task, stamps)))
    return planned


class _Making:
    """Makes the shards that are not there yet."""

    def __init__(
        self,
        out: Folder,
        make: Make,
        progress: Callable[[str], Progress] | None,
        say: Callable[[str], None],
    ) -> None:
        self.out, self.make, self.progress, self.say = out, make, progress, say
        self.journal = Journal(out)
        self.journal.start()

    def of(self, split: str, planned: list[tuple[ShardTask, str]]) -> list[ShardReport]:
        """Reports of all planned shards, in their order."""
        keys = {task.file: key for task, key in planned}
        found = {task.file: self.journal.find(task.file, key) for task, key in planned}
        done = {file: report for file, report in found.items() if report}
        other = self._clean(split, done)
        if done:
            self.say(f"{split}: {len(done):,} of {len(planned):,} shards are there already")
        elif other:
            self.say(f"{split}: the shards that are there are of another plan; all are made anew")
        todo = [task for task, _ in planned if task.file not in done]
        for task in todo:
            self.journal.forget(task.file)
        count = _Count(sum(len(task.instances) for task in todo))
        made = self.make(todo, count)
        if todo and self.progress:  # its clock starts here, with Ray's start behind it
            count.show = self.progress(split)
        for report in made:
            if report.rows and self.out.size(report.file) != report.bytes:
                raise _not_shared(self.out, report)
            self.journal.keep(report, keys[report.file])
            done[report.file] = report
        return [done[task.file] for task, _ in planned]

    def _clean(self, split: str, done: Mapping[str, ShardReport]) -> int:
        """Remove the shards of another plan, and count them. Other files stay."""
        self.out.make("--out", split)
        removed = 0
        for old in self.out.list(split):
            shard, file = old.split(".")[0], f"{split}/{old}"
            ours = len(shard) >= 5 and shard.isdigit() and old.endswith((".parquet", PART))
            if ours and file not in done:
                self.out.delete(file)
                removed += 1
        return removed


class _Count:
    """Adds up what is done, and tells it to whoever shows it."""

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total
        self.show: Progress | None = None

    def __call__(self, more: int) -> None:
        self.done += more
        if self.show:
            self.show(self.done, self.total)


def _not_shared(out: Folder, report: ShardReport) -> ClusterError:
    return ClusterError(
        "a shard that was written, but is not here",
        f"{out.uri(report.file)}: {report.bytes:,} bytes were written by a task on the cluster",
        "give --out a folder that all machines share, or a URI such as s3://bucket/folder",
    )


def _split(
    labels: Labels, kind: Kind, reports: Sequence[ShardReport], left_out: list[Skipped]
) -> Split:
    written = sum(report.rows for report in reports)
    if not written:
        raise nothing_left(labels, left_out)
    assert labels.read == written + len(left_out), "an instance was lost on the way to its shard"
    digests = "".join(digest for report in reports for digest in report.row_digests)
    return Split(
        kind=kind,
        source=labels.source.name,
        read=labels.read,
        rows=written,
        skipped=len(left_out),
        digest=hashlib.sha256(digests.encode()).hexdigest(),
        shards=[
            Shard(file=report.file, rows=report.rows, bytes=report.bytes, sha256=report.sha256)
            for report in reports
            if report.rows
        ],
        notes=[*labels.notes, *_turned(reports), *_resized(reports)],
    )


def _resized(reports: Sequence[ShardReport]) -> list[str]:
    """A note on pictures that were resized, or exchanged, after they were labelled."""
    names = sorted({name for report in reports for name in report.resized})
    if not names:
        return []
    what = f"{len(names):,} pictures have another size than the annotations tell"
    return [f"{what}, so labels may lie elsewhere: {shortened(names)}"]


def _turned(reports: Sequence[ShardReport]) -> list[str]:
    """What to know where labels may have been made on another view of a picture."""
    names = sorted({name for report in reports for name in report.turned})
    if not names:
        return []
    what = f"{len(names):,} pictures ask to be shown turned (EXIF), and are read as stored"
    return [f"{what}: do their labels fit? {shortened(names)}"]
