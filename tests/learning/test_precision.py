"""Half precision is chosen where the hardware has it, and nowhere else."""

import platform
from pathlib import Path

import pytest
import torch

from hrnet_ray.learning.precision import bf16_pays


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the flags of an x86 CPU")
def test_a_cpu_takes_bf16_only_with_the_instructions_for_it():
    flags = next(
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")
    )
    native = {"avx512_bf16", "amx_tile"} & set(flags.split())

    assert bf16_pays(torch.device("cpu")) == bool(native)


def test_a_device_that_nobody_measured_stays_with_fp32():
    assert not bf16_pays(torch.device("meta"))


@pytest.mark.gpu
def test_a_gpu_takes_bf16_from_ampere_on():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")

    assert bf16_pays(torch.device("cuda")) == (torch.cuda.get_device_capability() >= (8, 0))
