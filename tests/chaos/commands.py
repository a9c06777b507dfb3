"""The `hrnet-ray train` command as a process of its own, and what its run left."""

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
from tests.chaos.small_cluster import calm_environment

NET = "--data.input-hw 32 64 --model.width 4 --model.modules 1 1 1 --model.blocks 1 --model.stem 8"
EPOCHS = 12
FIGURES = ("train/loss", "val/OKS_AP", "val/EPE_px")


class Command:
    """Two workers who train a net that is nearly nothing."""

    def __init__(self, tigers: DatasetManifest, storage: Path, *more: str) -> None:
        self.run = storage / "tigers" / "run"
        self.words = [
            *("train", "--name", "run", *NET.split(), "--optim.batch-size", "4"),
            *("--optim.epochs", str(EPOCHS), "--data.root", str(tigers.root)),
            *(
                "--cluster.device",
                "cpu",
                "--cluster.num_workers",
                "2",
                "--cluster.log-sample-order",
            ),
            *("--cluster.storage-path", str(storage), *more),
        ]

    @contextmanager
    def started(
        self, address: str = "local", *, first: str = "", **more: str
    ) -> Iterator[subprocess.Popen[str]]:
        """The command at work, after a line of Python; it is ended should it still be there."""
        program = f"{first}\nfrom hrnet_ray.cli import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", program, *self.words],
            env=calm_environment() | {"RAY_ADDRESS": address} | more,
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
        """Return when so many epochs are recorded."""
        when(lambda: len(read_metrics(self.run)) >= count or process.poll() is not None)
        assert len(read_metrics(self.run)) >= count, process.communicate()[0]

    def figures(self) -> list[list[Any]]:
        """What was recorded of each epoch."""
        return [[epoch[name] for name in FIGURES] for epoch in read_metrics(self.run)]

    def order(self) -> dict[str, bytes]:
        """The files that tell which rows were met when."""
        return {path.name: path.read_bytes() for path in (self.run / "data" / "order").iterdir()}

    def folders(self) -> list[str]:
        """What lies beside Ray's own files: checkpoints, and whatever was forgotten."""
        return sorted(path.name for path in (self.run / "ray").iterdir() if path.is_dir())


@pytest.fixture(scope="session")
def calm(
    ray_session: None, tigers: DatasetManifest, tmp_path_factory: pytest.TempPathFactory
) -> Command:
    """What the command does when nobody hurts it."""
    command = Command(tigers, tmp_path_factory.mktemp("calm"))
    args = parse_args(TrainArgs, command.words[1:], prog="calm")
    train_experiment(args.experiment, args.cluster)
    return command


@contextmanager
def with_its_ray(words: list[str], log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program at work that starts a Ray; both are gone in the end. `log` gets what it says."""
    with log.open("ab") as file:
        driver = subprocess.Popen(words, stdout=file, stderr=file, env=calm_environment() | more)
    family: list[psutil.Process] = []
    try:
        yield driver
    finally:
        with suppress(psutil.Error):
            family = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.wait(10)
        _, alive = psutil.wait_procs(family, timeout=20)  # Ray follows its driver
        for process in alive:
            with suppress(psutil.Error):
                process.kill()


def when(holds: Callable[[], bool], *, within_s: float = 400) -> float:
    """Wait until it holds; returns the seconds that it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within_s, "it never came to that"
        time.sleep(0.05)
    return time.monotonic() - began
