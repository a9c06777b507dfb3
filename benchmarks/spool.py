"""Does a training wait for MLflow? The loop by itself, and with servers that fail in four ways.

    python benchmarks/spool.py            # about 4 minutes on two calm cores
    python benchmarks/spool.py --quick    # runs the path; its figures mean little

The loop is a process of its own, as a worker is: some arithmetic, then a line of 32 numbers in
metrics.jsonl, through to the disk. Beside it the driver's thread tells a server that refuses,
hangs, answers 500, or takes two seconds; or there is no driver at all. All five take turns, so that
whatever else the machine does meets them alike. Ends with one JSON line: `slowdown_frac` of the
loop's own processor time and of its fastest round, for the worst of the failures.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

from hrnet_ray.tracking import MlflowExperiment, RunLogger

FAILURES = ("refuses", "hangs", "fails", "slow")
ALONE = "alone"

LOOP = """
import sys, time
from pathlib import Path
import numpy as np
from hrnet_ray.runs.event_log import append_epoch

folder, epochs, square = Path(sys.argv[1]), int(sys.argv[2]), np.full((300, 300), 0.5)
figures = {f"val/OKS.{number}": 0.5 for number in range(30)}
wall, processor = time.perf_counter(), time.process_time()
for epoch in range(epochs):
    for _ in range(20):
        square @ square
    append_epoch(folder, {"epoch": epoch, "train/loss": 1.0, "val/OKS_AP": 0.5, **figures})
print(time.perf_counter() - wall, time.process_time() - processor)
"""


class Failing(BaseHTTPRequestHandler):
    """Fails as `failure` says."""

    failure = ""

    def _fail(self) -> None:
        if self.failure == "hangs":
            time.sleep(60)
        time.sleep(2.0 if self.failure == "slow" else 0.0)
        with suppress(OSError):
            self.send_error(500)

    do_GET = do_POST = _fail

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


class Quiet(ThreadingHTTPServer):
    """Says nothing of callers that gave up: that is the point of it."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """They have."""


def main() -> None:
    """Take turns, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    rounds, epochs = (1, 5) if quick else (12, 60)
    logging.getLogger("hrnet_ray.tracking").setLevel(logging.ERROR)
    addresses = {failure: serve(failure) for failure in FAILURES}
    ways = [ALONE, *FAILURES]
    walls: dict[str, list[float]] = {way: [] for way in ways}
    processors: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        for at in range(len(ways)):
            way = ways[(at + turn) % len(ways)]
            wall, processor = timed(addresses.get(way), epochs)
            walls[way].append(wall)
            processors[way].append(processor)
    print(f"{'':10}{'median s':>10}{'fastest s':>10}{'processor s':>12}")
    for way in ways:
        figures = median(walls[way]), min(walls[way]), median(processors[way])
        print(f"{way:10}{figures[0]:>10.3f}{figures[1]:>10.3f}{figures[2]:>12.3f}")
    print(json.dumps(summary(walls, processors) | {"rounds": rounds, "epochs": epochs}))


def summary(walls: dict[str, list[float]], processors: dict[str, list[float]]) -> dict[str, float]:
    """How much longer the loop took with the worst of the failures.

    Of its fastest round, and of the processor time that it used itself (median).
    """
    fastest = max(min(walls[way]) for way in FAILURES) / min(walls[ALONE]) - 1
    used = max(median(processors[way]) for way in FAILURES) / median(processors[ALONE]) - 1
    return {"slowdown_frac": round(fastest, 4), "slowdown_processor_frac": round(used, 4)}


def serve(failure: str) -> str:
    """The address of a server that fails."""
    handler = type(failure, (Failing,), {"failure": failure})
    server = Quiet(("127.0.0.1", 0), handler)
    if failure == "refuses":
        server.server_close()
    else:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def timed(address: str | None, epochs: int) -> tuple[float, float]:
    """Seconds that a loop took, and those of the processor in it."""
    with tempfile.TemporaryDirectory() as storage:
        folder = Path(storage) / "otters" / "first"
        folder.mkdir(parents=True)
        board = MlflowExperiment.open_for_dataset("otters", storage_dir=Path(storage), tracking_uri=address)
        if address:
            RunLogger.open_or_resume(board, folder, name="first", params={}, tags={})
        done = subprocess.run(
            [sys.executable, "-c", LOOP, str(folder), str(epochs)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        board.background_sync.flush_and_stop(timeout_s=0)
        if board.metrics_sampler:
            board.metrics_sampler.stop_sampling()
    wall, processor = map(float, done.stdout.split())
    return wall, processor


if __name__ == "__main__":
    main()
