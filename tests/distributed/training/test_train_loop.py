"""What a worker makes of its machine: a GPU that is too small, or not its own."""

from pathlib import Path

import pytest
import torch

from hrnet_ray.config import Experiment
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.distributed.training.backends import TrialHost
from hrnet_ray.distributed.training.train_loop import too_large_explained
from hrnet_ray.distributed.training.worker_config import Job
from hrnet_ray.errors import UsageError


def test_a_gpu_that_is_too_small_is_no_lost_worker(
    tiny: Experiment, tigers: Manifest, tmp_path: Path
):
    job = Job(
        experiment=tiny,
        manifest=tigers,
        data={},
        run_folder=tmp_path,
        threads=1,
        write_order=False,
        host=TrialHost(tmp_path, {}, gpu=True),
        started_in=str(tmp_path),
    )

    with pytest.raises(UsageError) as refused, too_large_explained(job):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    assert str(refused.value) == (
        "4 crops of 32 x 64 are too many for a GPU at once\n"
        "  --optim.batch-size 4 --optim.accumulate 1, 1 workers: CUDA out of memory. Tried to "
        "allocate 2.00 GiB.\n"
        "  fix: --optim.accumulate 2 learns the same batch in smaller parts; hrnet-ray doctor "
        "--gpu tells how many fit"
    )


@pytest.mark.parametrize(("gpu", "device"), [(False, "cpu"), (True, "cuda:0")])
def test_a_trial_is_where_it_booked(gpu: bool, device: str, tmp_path: Path):
    assert TrialHost(tmp_path, {}, gpu=gpu).device() == torch.device(device)
