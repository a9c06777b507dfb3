import stat
from pathlib import Path

import pytest
import torch

from hrnet_ray.config import DataConfig, ExperimentConfig, ModelConfig, OptimizerConfig
from hrnet_ray.doctor import gpu
from hrnet_ray.doctor.gpu import GpuInfo
from hrnet_ray.doctor.result import CheckResult, CheckSkipped
from tests.small_models import SMALL

W32 = ExperimentConfig(data=DataConfig(input_hw=(192, 256)), optim=OptimizerConfig(batch_size=48))


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake program, first in PATH, whose content the test writes."""
    path = tmp_path / "nvidia-smi"
    path.write_text("#!/bin/sh\n")
    path.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return path


def test_a_driver_too_old_for_cuda_is_reported_with_the_one_to_install():
    gpu_info = GpuInfo("NVIDIA H100 80GB HBM3", "570.124.06")

    assert gpu.find_driver_problem(gpu_info, "13.0") == CheckResult(
        "wrong",
        "driver 570.124.06 of NVIDIA H100 80GB HBM3: CUDA 13.0 needs 580 or newer",
        "sudo apt-get install -y nvidia-driver-580 && sudo reboot",
    )
    assert gpu.find_driver_problem(gpu_info, "12.8") is None
    assert gpu.find_driver_problem(GpuInfo("A100", "580.65.06"), "13.0") is None


def test_a_gpu_with_a_torch_without_cuda_is_reported():
    result = gpu.find_driver_problem(GpuInfo("A100", "580.65.06"), None)

    assert result is not None
    assert result.detail == "A100, but this torch was built without CUDA"
    assert result.fix == "pip install --force-reinstall -c constraints.txt torch"


def test_gpus_are_read_from_nvidia_smi(nvidia_smi: Path):
    nvidia_smi.write_text("#!/bin/sh\necho 'A100, 80GB, 535.161.08'\necho 'T4, 535.161.08'\n")

    assert gpu.list_gpus() == [GpuInfo("A100, 80GB", "535.161.08"), GpuInfo("T4", "535.161.08")]


def test_a_failing_driver_skips_the_check(nvidia_smi: Path):
    nvidia_smi.write_text("#!/bin/sh\necho 'Driver/library version mismatch'\nexit 18\n")

    with pytest.raises(CheckSkipped, match=r"^nvidia-smi: Driver/library version mismatch$"):
        gpu.list_gpus()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_machine_without_a_gpu_is_ok():
    result = gpu.check_batch_size(W32, workers=1, measure=False)

    assert result == CheckResult("ok", "CPU: no limit of GPU memory")
    assert gpu.check_batch_size(W32, workers=1, measure=True).state == "careful"


def test_the_batch_size_is_extrapolated_from_two_steps():
    # 500 bytes of weights and 100 per crop: 0.9 x 2,900 = 2,610 bytes hold 21 crops.
    peaks = {8: 1300, 16: 2100}

    assert gpu.estimate_max_batch_size(peaks, 2900) == 21
    assert gpu.estimate_max_batch_size(peaks, 400) == 0


def test_a_batch_that_does_not_fit_needs_gradient_accumulation():
    assert gpu.check_worker_batch_size("9 GB free", 24, W32, workers=2) == CheckResult(
        "ok", "9 GB free; up to 24 crops of 256 x 192 fit W32, a worker uses 24"
    )
    assert gpu.check_worker_batch_size("9 GB free", 20, W32, workers=1) == CheckResult(
        "careful",
        "9 GB free; up to 20 crops of 256 x 192 fit W32, but a worker uses 48",
        "hrnet-ray train --optim.gradient-accumulation-steps 3",
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_memory_grows_linearly_with_the_batch_size():
    small = ExperimentConfig(model=ModelConfig(**SMALL))

    four, eight, sixteen = (gpu.measure_step_bytes(small, crops) for crops in (4, 8, 16))

    assert sixteen - eight == pytest.approx(2 * (eight - four), rel=0.3)
