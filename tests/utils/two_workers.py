"""Two real processes that know each other through gloo, as two of Ray Train's workers do."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import distributed

Work = Callable[[int, Path], None]


def together(work: Work, folder: Path) -> None:
    """Run `work(rank, folder)` in both; what one raises, or that it died, is raised here."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for ended in [pool.submit(_worker, work, rank, folder) for rank in range(2)]:
            ended.result()


def _worker(work: Work, rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    # `work` has returned, and so let its DDP go, before the group is destroyed: a DDP that goes
    # last joins gloo's threads while it holds the GIL they wait for, and now and then hangs.
    work(rank, folder)
    distributed.destroy_process_group()
