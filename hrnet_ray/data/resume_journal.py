"""What `prepare` has finished, so that the same command goes on where it was stopped.

OUT/.journal/train-00003.json   the report of one shard, and the key of what it was made from

The key holds all that can change a shard: labels, settings, and the size and time of each picture.
A report whose key is another, or whose shard is not there as it was written, counts for nothing.
The reports stay when all is done: after a few new pictures only their shards are made.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hrnet_ray.data.annotations import Instance, Skipped
from hrnet_ray.data.manifest import FORMAT, file_sha256
from hrnet_ray.data.shards import ShardReport, ShardTask
from hrnet_ray.data.storage import Folder, Stamp
from hrnet_ray.skeletons import to_dict

FOLDER = ".journal"


def key_of(task: ShardTask, stamps: Mapping[str, Stamp]) -> str:
    """A fingerprint of all that decides what a shard holds."""
    settings = [FORMAT, task.file, task.kind, task.canvas_px, to_dict(task.skeleton)]
    told = hashlib.sha256(json.dumps([*settings, str(task.images.root)], sort_keys=True).encode())
    for instance in task.instances:
        line = [_plain(instance), stamps.get(instance.image)]
        told.update(json.dumps(line, sort_keys=True).encode())
    return told.hexdigest()


def _plain(instance: Instance) -> dict[str, Any]:
    return vars(instance) | {
        "image_xy": instance.image_xy.tolist(),
        "visible": instance.visible.tolist(),
    }


class Journal:
    """The reports of finished shards, one small file each: an object store cannot append."""

    def __init__(self, out: Folder) -> None:
        self.out = out

    def start(self) -> None:
        """See what is there already.

        Raises:
            ClusterError: the storage takes nothing; better now than after the first shard.
        """
        self.out.make("--out", FOLDER)
        self.out.write_bytes(f"{FOLDER}/started", b"")
        self.known = set(self.out.list(FOLDER))

    def find(self, file: str, key: str) -> ShardReport | None:
        """The report of a shard that need not be made again."""
        if _name(file) not in self.known:
            return None
        try:
            found = json.loads(self.out.read_bytes(f"{FOLDER}/{_name(file)}"))
            skipped = [Skipped(**thing) for thing in found["report"].pop("skipped")]
            report = ShardReport(**found["report"], skipped=skipped)
            same = found["key"] == key and report.file == file
            return report if same and self._is_there(report) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # cut off, or not ours: the shard is made again

    def _is_there(self, report: ShardReport) -> bool:
        if not report.rows:
            return True
        if self.out.size(report.file) != report.bytes:
            return False
        # An object store keeps its own checksums; to fetch all of it takes as long as to make it.
        return not self.out.is_local or file_sha256(self.out, report.file) == report.sha256

    def keep(self, report: ShardReport, key: str) -> None:
        """Remember a finished shard."""
        document = {"key": key, "report": asdict(report)}
        self.out.write_bytes(f"{FOLDER}/{_name(report.file)}", json.dumps(document).encode())

    def forget(self, file: str) -> None:
        """A shard that is about to be made again: until it is, nothing vouches for it."""
        if _name(file) in self.known:
            self.out.delete(f"{FOLDER}/{_name(file)}")


def _name(file: str) -> str:
    return file.replace("/", "-").removesuffix(".parquet") + ".json"
