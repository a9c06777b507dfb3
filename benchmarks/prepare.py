"""`prepare` on Ray against a bare loop that decodes, reduces and encodes, in one run.

    python benchmarks/prepare.py [--images 10000] [--quick]

The bare loop is what cannot be left out: two processes that read 1280x720 JPEGs, decode them,
reduce them to the canvas by area, and encode that. `prepare` does this too on two CPUs, and hashes,
checks, labels, packs and remembers. A few drawn images lie under all the names (hard links), and
each is one instance as large as its image, so that both sides have the same pixels to work on.

Shards and as many images of the bare loop come in turn, in groups; the seconds of all of one
`prepare` that are not the bare loop's are its own, with planning and manifest. Its private memory
(this process and Ray's workers) is looked at all the time: `memory_growth` is how much more the
median of the last quarter is than that of the first.

A Ray of its own is started on loopback and ended. Ends with one JSON line.
"""

import argparse
import json
import logging
import multiprocessing
import os
import secrets
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import psutil
from meters import cpu_s, descendants, private_mb
from photos import QUALITY, drawn

from hrnet_ray.data.annotations import AnnotationSet, PoseInstance
from hrnet_ray.data.dataset_preparation import prepare_dataset
from hrnet_ray.data.images import codec
from hrnet_ray.data.images.codec import cv2
from hrnet_ray.data.integrity import verify_checksums
from hrnet_ray.data.records import CANVAS_PX, STORED_JPEG_QUALITY
from hrnet_ray.data.shards import ROWS_PER_SHARD, DoneCallback, ShardResult, ShardTask
from hrnet_ray.data.splits import SplitSource
from hrnet_ray.skeletons import MPII

SIZE_HW = (720, 1280)
DISTINCT = 16  # drawn images
CORES = 2
GROUP_SHARDS = 8
EVERY_S = 2.0  # asking costs some milliseconds a process, on the same cores


def bare(path: str) -> int:
    """The least that can be done to an image; returns the bytes of the reduced one."""
    picture = cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
    height, width = picture.shape[:2]
    shrink = CANVAS_PX / max(height, width)
    size = (round(width * shrink), round(height * shrink))
    reduced = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    reduced = cv2.cvtColor(reduced, cv2.COLOR_RGB2BGR)
    return len(cv2.imencode(".jpg", reduced, [cv2.IMWRITE_JPEG_QUALITY, STORED_JPEG_QUALITY])[1])


def one_thread() -> None:
    """Two processes on two cores: threads within them would only get in each other's way."""
    cv2.setNumThreads(1)


@dataclass
class Turns:
    """Makes shards on Ray and, after each group, as many images in the bare loop."""

    images: Path
    pool: Pool
    rates: list[tuple[float, float]] = field(default_factory=list)
    bare_s: float = 0.0
    bare_cpu_s: float = 0.0
    making: bool = False

    def __call__(self, tasks: Sequence[ShardTask], tell: DoneCallback) -> Iterator[ShardResult]:
        from hrnet_ray.distributed.data.shard_tasks import write_shards_ray

        for first in range(0, len(tasks), GROUP_SHARDS):
            group = tasks[first : first + GROUP_SHARDS]
            names = [instance.image for task in group for instance in task.instances]
            started = time.perf_counter()
            self.making = True
            yield from write_shards_ray(group, tell)
            self.making = False
            made_s = time.perf_counter() - started
            bare_s = self._bare(names)
            self.bare_s += bare_s
            self.rates.append((len(names) / made_s, len(names) / bare_s))
            print(
                f"  {first * ROWS_PER_SHARD + len(names):>7,} images   prepare "
                f"{len(names) / made_s:6.1f}/s   bare {len(names) / bare_s:6.1f}/s",
                flush=True,
            )

    def _bare(self, names: list[str]) -> float:
        processes = descendants()
        started, before = time.perf_counter(), cpu_s(processes)
        paths = [str(self.images / name) for name in names]
        assert all(self.pool.imap_unordered(bare, paths, chunksize=16))
        self.bare_cpu_s += cpu_s(processes) - before
        return time.perf_counter() - started


class Memory:
    """Private memory of this process and Ray's workers, sampled while shards are made."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.mb = turns, []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def growth(self) -> float:
        """How much more the last quarter has than the first, as a share of the first."""
        quarter = max(1, len(self.mb) // 4)
        first, last = self.mb[:quarter], self.mb[-quarter:]
        return statistics.median(last) / statistics.median(first) - 1

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(EVERY_S if self.mb else 0.1):
            if self.turns.making:
                self.mb.append(private_mb([me, *filter(is_worker, descendants())]))


def is_worker(process: psutil.Process) -> bool:
    """Ray names its workers after what they do: ray::IDLE, ray::_run."""
    with suppress(psutil.Error):
        return "ray::" in " ".join(process.cmdline()[:1])
    return False


def labelled(images: Path, count: int) -> AnnotationSet:
    """`count` names for a few drawn images, and one instance in each."""
    images.mkdir(parents=True)
    for at, picture in enumerate(islice(drawn(np.random.default_rng(0), SIZE_HW), DISTINCT)):
        data = codec.encode_jpeg(picture, quality=QUALITY)
        (images / f"{at:06d}.jpg").write_bytes(data)
    for at in range(DISTINCT, count):
        os.link(images / f"{at % DISTINCT:06d}.jpg", images / f"{at:06d}.jpg")
    return AnnotationSet(
        source=images / "drawn.json",
        skeleton=MPII,
        instances=[instance(at, f"{at:06d}.jpg") for at in range(count)],
    )


def instance(id: int, image: str) -> PoseInstance:
    """One that fills its image."""
    height, width = SIZE_HW
    points = np.random.default_rng(id).uniform((0, 0), (width, height), (len(MPII), 2))
    return PoseInstance(
        id=id,
        image_id=id,
        image=image,
        category_id=1,
        box_xywh=(0.0, 0.0, width - 1.0, height - 1.0),
        area=float(width * height),
        head_size=100.0,
        image_xy=points,
        visible=np.ones(len(MPII), bool),
    )


def start_ray() -> None:
    """A Ray of this benchmark's own, with two CPUs, on loopback only."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    import ray

    ray.init(
        address="local",
        num_cpus=CORES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def warm_up() -> None:
    """Have Ray's workers started and their imports done, as the pool's are."""
    import ray

    @ray.remote(num_cpus=1)
    def ready() -> str:
        import hrnet_ray.data.dataset_preparation as made

        time.sleep(1)  # so that each CPU gets one
        return made.__name__

    ray.get([ready.remote() for _ in range(CORES)])


def main() -> None:
    """Measure, print, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="2,000 images")
    args = parser.parse_args()
    count = 2_000 if args.quick else args.images
    start_ray()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, spawn.Pool(CORES, one_thread) as pool:
        images = Path(folder) / "images"
        labels = labelled(images, count)
        turns = Turns(images, pool)
        list(pool.imap(bare, [str(images / f"{at:06d}.jpg") for at in range(DISTINCT)]))
        memory = Memory(turns)
        warm_up()
        processes = descendants()
        started, before = time.perf_counter(), cpu_s(processes)
        out = Path(folder) / "out"
        manifest = prepare_dataset({"train": SplitSource(labels, images)}, out=out, name="drawn", write_shards=turns)
        seconds = time.perf_counter() - started - turns.bare_s
        memory.stop()
        cpu = cpu_s(processes) - before - turns.bare_cpu_s
        verify_checksums(manifest)
        print(f"manifest: {manifest.splits['train'].rows:,} rows, all shards as they were written")
    ratio = turns.bare_s / seconds
    medians = [statistics.median(side) for side in zip(*turns.rates, strict=True)]
    print(f"all: prepare {count / seconds:.1f}/s, bare {count / turns.bare_s:.1f}/s")
    print(f"median of the groups: prepare {medians[0]:.1f}/s, bare {medians[1]:.1f}/s")
    print(
        f"CPU of an image: prepare {1000 * cpu / count:.1f} ms (with Ray's own processes), "
        f"bare {1000 * turns.bare_cpu_s / count:.1f} ms"
    )
    print(f"memory: peak {max(memory.mb):.0f} MB, growth {100 * memory.growth():.1f} %")
    figures = {
        "prepare_ratio": round(ratio, 3),
        "rate": round(count / seconds, 1),
        "cpu_ratio": round(turns.bare_cpu_s / cpu, 3),
        "memory_growth": round(memory.growth(), 4),
        "memory_peak_mb": round(max(memory.mb)),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
