"""Selection of bf16 autocast by device."""

import torch


def should_use_bf16(device: torch.device) -> bool:
    """Whether `precision=auto` means bf16 autocast on this device.

    True for GPUs with native bf16 (Ampere and later). False for CPUs, although bf16 can make steps
    twice as fast: on CPUs, resumed and repeated runs agree bit for bit, also between machines of
    which only one has the instructions. docs/performance.md has the scores of both. The recipes of
    `--size` choose bf16 there (`training/presets.py`).
    """
    return device.type == "cuda" and has_native_bf16(device)


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 instructions: Ampere and later GPUs, AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)
