"""What `prepare` has finished, so that the same command goes on where it was stopped.

OUT/.journal/train-00003.json   the report of one shard, and the key of what it was made from

The key holds all that can change a shard: labels, settings, and the size and time of each image.
A report whose key is another, or whose shard is not there as it was written, counts for nothing.
The reports stay when all is done: after a few new images only their shards are made.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hrnet_ray.data.annotations import PoseInstance, SkippedItem
from hrnet_ray.data.manifest import FORMAT_VERSION, hash_shard
from hrnet_ray.data.shards import ShardResult, ShardTask
from hrnet_ray.data.storage import FileStamp, StorageDir
from hrnet_ray.skeletons import to_dict

CACHE_DIR = ".journal"


def compute_shard_key(task: ShardTask, stamps: Mapping[str, FileStamp]) -> str:
    """A fingerprint of all that decides what a shard holds."""
    settings = [FORMAT_VERSION, task.file, task.kind, task.canvas_px, to_dict(task.skeleton)]
    told = hashlib.sha256(json.dumps([*settings, str(task.images.root)], sort_keys=True).encode())
    for instance in task.instances:
        line = [_convert_to_json_values(instance), stamps.get(instance.image)]
        told.update(json.dumps(line, sort_keys=True).encode())
    return told.hexdigest()


def _convert_to_json_values(instance: PoseInstance) -> dict[str, Any]:
    return vars(instance) | {
        "image_xy": instance.image_xy.tolist(),
        "visible": instance.visible.tolist(),
    }


class ShardCache:
    """The reports of finished shards, one small file each: an object store cannot append."""

    def __init__(self, out: StorageDir) -> None:
        self.out = out

    def load_index(self) -> None:
        """See what is there already.

        Raises:
            ClusterError: the storage takes nothing; better now than after the first shard.
        """
        self.out.make_dir("--out", CACHE_DIR)
        self.out.write_bytes(f"{CACHE_DIR}/started", b"")
        self.cached_names = set(self.out.list_files(CACHE_DIR))

    def get_result(self, file: str, key: str) -> ShardResult | None:
        """The report of a shard that need not be made again."""
        if _get_entry_name(file) not in self.cached_names:
            return None
        try:
            found = json.loads(self.out.read_bytes(f"{CACHE_DIR}/{_get_entry_name(file)}"))
            skipped = [SkippedItem(**thing) for thing in found["report"].pop("skipped")]
            report = ShardResult(**found["report"], skipped=skipped)
            same = found["key"] == key and report.file == file
            return report if same and self._is_shard_intact(report) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # cut off, or not ours: the shard is made again

    def _is_shard_intact(self, report: ShardResult) -> bool:
        if not report.rows:
            return True
        if self.out.get_file_size(report.file) != report.bytes:
            return False
        # An object store keeps its own checksums; to fetch all of it takes as long as to make it.
        return not self.out.is_local or hash_shard(self.out, report.file) == report.sha256

    def put_result(self, report: ShardResult, key: str) -> None:
        """Remember a finished shard."""
        document = {"key": key, "report": asdict(report)}
        self.out.write_bytes(f"{CACHE_DIR}/{_get_entry_name(report.file)}", json.dumps(document).encode())

    def delete_result(self, file: str) -> None:
        """A shard that is about to be made again: until it is, nothing vouches for it."""
        if _get_entry_name(file) in self.cached_names:
            self.out.delete_file(f"{CACHE_DIR}/{_get_entry_name(file)}")


def _get_entry_name(file: str) -> str:
    return file.replace("/", "-").removesuffix(".parquet") + ".json"
