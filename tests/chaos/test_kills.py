"""Workers are killed without a word; Ray Train goes on from the last checkpoint."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from hrnet_ray.runtime.records import read_epochs
from hrnet_ray.runtime.train import fit

pytestmark = pytest.mark.chaos

EPOCHS = 5


def _when(holds: Callable[[], bool], *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


def _our_workers() -> list[psutil.Process]:
    """Training workers that descend from this very process; nobody else's are looked at."""
    family = psutil.Process().children(recursive=True)
    return [p for p in family if p.cmdline() and p.cmdline()[0].startswith("ray::RayTrainWorker")]


def test_a_run_whose_worker_is_killed_ends_with_the_same_figures(ray_session, tiny, here):
    longer = replace(tiny, optim=replace(tiny.optim, epochs=EPOCHS))
    here = replace(here, write_order=True)
    calm = fit(replace(longer, name="calm"), here)
    folder = Path(here.storage).absolute() / "tigers" / "hurt"
    killed: list[int] = []

    def kill() -> None:
        _when(lambda: len(read_epochs(folder)) >= 2, within_s=120)
        victim = _our_workers()[-1]
        killed.append(victim.pid)
        victim.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    hurt = fit(replace(longer, name="hurt"), here)
    killer.join()

    assert len(killed) == 1
    assert [entry["epoch"] for entry in read_epochs(hurt.folder)] == list(range(EPOCHS))
    for before, after in zip(read_epochs(calm.folder), read_epochs(hurt.folder), strict=True):
        for name in ("train/loss", "val/OKS_AP", "val/EPE_px"):
            assert after[name] == before[name], (name, after["epoch"])  # bit for bit
    met = [sorted((run.folder / "data" / "order").iterdir()) for run in (calm, hurt)]
    assert [path.name for path in met[0]] == [f"epoch_{epoch:04d}.txt" for epoch in range(EPOCHS)]
    for before, after in zip(*met, strict=True):
        assert after.read_bytes() == before.read_bytes()
