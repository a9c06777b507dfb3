"""A worker's device: a GPU that is too small, or that is not reserved."""

from pathlib import Path

import pytest
import torch

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.distributed.training.backends import TuneTrialBackend
from hrnet_ray.distributed.training.train_loop import explain_cuda_oom
from hrnet_ray.distributed.training.worker_config import WorkerConfig
from hrnet_ray.errors import UsageError


def test_a_gpu_that_is_too_small_is_a_usage_error(tiny: ExperimentConfig, tigers: DatasetManifest, tmp_path: Path):
    worker_config = WorkerConfig(
        experiment=tiny,
        manifest=tigers,
        cached_splits={},
        run_folder=tmp_path,
        threads=1,
        log_sample_order=False,
        backend=TuneTrialBackend(tmp_path, {}, gpu=True),
        driver_cwd=str(tmp_path),
    )

    with pytest.raises(UsageError) as refused, explain_cuda_oom(worker_config):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    assert str(refused.value) == (
        "4 crops of 32 x 64 do not fit into GPU memory\n"
        "  --optim.batch-size 4 --optim.gradient-accumulation-steps 1, 1 workers: CUDA out of "
        "memory. Tried to allocate 2.00 GiB.\n"
        "  fix: use --optim.gradient-accumulation-steps 2 for the same batch in smaller parts; "
        "`hrnet-ray doctor --test-gpu` shows how many fit"
    )


@pytest.mark.parametrize(("gpu", "device"), [(False, "cpu"), (True, "cuda:0")])
def test_a_trial_uses_the_device_that_it_reserved(gpu: bool, device: str, tmp_path: Path):
    assert TuneTrialBackend(tmp_path, {}, gpu=gpu).get_train_device() == torch.device(device)
