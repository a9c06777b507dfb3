"""bf16 is selected on GPUs with native support only."""

from pathlib import Path

import pytest
import torch

from hrnet_ray.training.precision import has_native_bf16, should_use_bf16


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_other_devices_than_gpus_use_fp32(device):
    assert not should_use_bf16(torch.device(device))


def test_a_cpu_has_native_bf16_if_the_system_lists_the_instructions():
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        pytest.skip("no /proc/cpuinfo")
    flags = set(cpuinfo.read_text().split())

    assert has_native_bf16(torch.device("cpu")) == bool(flags & {"avx512_bf16", "amx_tile"})


@pytest.mark.gpu
def test_a_gpu_uses_bf16_from_ampere_on():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")

    assert should_use_bf16(torch.device("cuda")) == (torch.cuda.get_device_capability() >= (8, 0))
