import stat
from pathlib import Path

import pytest
import torch

from hrnet_ray.config import DataConfig, Experiment, ModelConfig, OptimConfig
from hrnet_ray.doctor import gpu
from hrnet_ray.doctor.gpu import Card
from hrnet_ray.doctor.result import CouldNotLook, Finding

W32 = Experiment(data=DataConfig(input_hw=(192, 256)), optim=OptimConfig(batch_size=48))


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, found before any other; the test writes what it does."""
    path = tmp_path / "nvidia-smi"
    path.write_text("#!/bin/sh\n")
    path.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return path


def test_a_driver_older_than_torchs_cuda_wants_is_named_with_the_one_to_install():
    card = Card("NVIDIA H100 80GB HBM3", "570.124.06")

    assert gpu.driver_fault(card, "13.0") == Finding(
        "wrong",
        "driver 570.124.06 of NVIDIA H100 80GB HBM3: CUDA 13.0 wants 580 or newer",
        "sudo apt-get install -y nvidia-driver-580 && sudo reboot",
    )
    assert gpu.driver_fault(card, "12.8") is None
    assert gpu.driver_fault(Card("A100", "580.65.06"), "13.0") is None


def test_a_gpu_under_a_torch_without_cuda_is_told():
    found = gpu.driver_fault(Card("A100", "580.65.06"), None)

    assert found is not None
    assert found.detail == "A100, but this torch was built without CUDA"
    assert found.fix == "pip install --force-reinstall -c constraints.txt torch"


def test_cards_are_read_from_what_the_driver_prints(nvidia_smi: Path):
    nvidia_smi.write_text("#!/bin/sh\necho 'A100, 80GB, 535.161.08'\necho 'T4, 535.161.08'\n")

    assert gpu.cards_here() == [Card("A100, 80GB", "535.161.08"), Card("T4", "535.161.08")]


def test_a_driver_that_fails_could_not_be_looked_at(nvidia_smi: Path):
    nvidia_smi.write_text("#!/bin/sh\necho 'Driver/library version mismatch'\nexit 18\n")

    with pytest.raises(CouldNotLook, match=r"^nvidia-smi: Driver/library version mismatch$"):
        gpu.cards_here()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is meant")
def test_a_machine_without_a_gpu_says_so():
    found = gpu.batch(W32, workers=1, by_trying=False)

    assert found == Finding("ok", "CPU: nothing to fit, the batch takes main memory")
    assert gpu.batch(W32, workers=1, by_trying=True).state == "careful"


def test_two_steps_tell_the_batch_that_fits():
    # 500 bytes for the weights, 100 for each crop: 0.9 x 2,900 = 2,610 hold 21 crops.
    peaks = {8: 1300, 16: 2100}

    assert gpu.crops_that_fit(peaks, 2900) == 21
    assert gpu.crops_that_fit(peaks, 400) == 0


def test_a_share_that_does_not_fit_is_taken_in_parts():
    assert gpu.batch_finding("9 GB free", 24, W32, workers=2) == Finding(
        "ok", "9 GB free; up to 24 crops of 256 x 192 fit W32, a worker takes 24"
    )
    assert gpu.batch_finding("9 GB free", 20, W32, workers=1) == Finding(
        "careful",
        "9 GB free; up to 20 crops of 256 x 192 fit W32, but a worker takes 48",
        "hrnet-ray train --optim.accumulate 3",
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_more_crops_take_more_memory_in_a_straight_line():
    small = Experiment(model=ModelConfig(width=8, modules=(1, 1, 1), blocks=1, stem=16))

    four, eight, sixteen = (gpu.step_bytes(small, crops) for crops in (4, 8, 16))

    assert sixteen - eight == pytest.approx(2 * (eight - four), rel=0.3)
