"""The `hrnet-ray train` command in a process of its own, and the files of its run."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from hrnet_ray.cli import parse_args
from hrnet_ray.cli.train import TrainArgs
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.distributed.training.train import train_experiment
from hrnet_ray.runs.event_log import read_metrics
from tests.chaos.small_cluster import environment_without_ray

MODEL_FLAGS = "--data.input-hw 32 64 --model.width 4 --model.modules 1 1 1 --model.blocks 1 --model.stem 8"
EPOCHS = 12
FIGURES = ("train/loss", "val/OKS_AP", "val/EPE_px")


class Command:
    """Two workers that train a tiny model."""

    def __init__(self, tigers: DatasetManifest, storage: Path, *more: str) -> None:
        self.run = storage / "tigers" / "run"
        self.words = [
            *("train", "--size", "published", "--name", "run", *MODEL_FLAGS.split(), "--optim.batch-size", "4"),
            *("--optim.epochs", str(EPOCHS), "--data.root", str(tigers.root)),
            *(
                "--cluster.device",
                "cpu",
                "--cluster.num-workers",
                "2",
                "--cluster.log-sample-order",
            ),
            *("--cluster.storage-path", str(storage), *more),
        ]

    @contextmanager
    def started(self, address: str = "local", *, first: str = "", **more: str) -> Iterator[subprocess.Popen[str]]:
        """Run the command after a line of Python; it is killed at the end of the block."""
        program = f"{first}\nfrom hrnet_ray.cli import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", program, *self.words],
            env=environment_without_ray() | {"RAY_ADDRESS": address} | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def wait_for_epochs(self, count: int, process: subprocess.Popen[str]) -> None:
        """Wait until `count` epochs are recorded."""
        wait_until(lambda: len(read_metrics(self.run)) >= count or process.poll() is not None)
        assert len(read_metrics(self.run)) >= count, process.communicate()[0]

    def figures(self) -> list[list[Any]]:
        """The recorded metrics of each epoch."""
        return [[epoch[name] for name in FIGURES] for epoch in read_metrics(self.run)]

    def order(self) -> dict[str, bytes]:
        """The files with the order of the training rows."""
        return {path.name: path.read_bytes() for path in (self.run / "dataset_report" / "order").iterdir()}

    def folders(self) -> list[str]:
        """The checkpoint folders, and any leftovers."""
        return sorted(path.name for path in (self.run / "checkpoints").iterdir() if path.is_dir())


@pytest.fixture(scope="session")
def undisturbed(ray_session: None, tigers: DatasetManifest, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command without a failure."""
    command = Command(tigers, tmp_path_factory.mktemp("undisturbed"))
    args = parse_args(TrainArgs, command.words[1:], prog="undisturbed")
    train_experiment(args.experiment, args.cluster)
    return command


@contextmanager
def run_with_ray(words: list[str], log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that starts a Ray cluster; both end with the block. `log` gets its output."""
    with log.open("ab") as file:
        driver = subprocess.Popen(words, stdout=file, stderr=file, env=environment_without_ray() | more)
    processes: list[psutil.Process] = []
    try:
        yield driver
    finally:
        with suppress(psutil.Error):
            processes = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.wait(10)
        _, alive = psutil.wait_procs(processes, timeout=20)  # Ray ends with its driver
        for process in alive:
            with suppress(psutil.Error):
                process.kill()


def wait_until(condition: Callable[[], bool], *, within_s: float = 400) -> float:
    """Wait until the condition holds; returns the seconds that it took."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < within_s, "the condition never held"
        time.sleep(0.05)
    return time.monotonic() - started_s
