"""Half precision is chosen where it pays, and nowhere else."""

import pytest
import torch

from hrnet_ray.learning.precision import bf16_pays


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_is_no_gpu_stays_with_fp32(device):
    assert not bf16_pays(torch.device(device))


@pytest.mark.gpu
def test_a_gpu_takes_bf16_from_ampere_on():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")

    assert bf16_pays(torch.device("cuda")) == (torch.cuda.get_device_capability() >= (8, 0))
