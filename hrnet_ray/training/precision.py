"""Where half precision pays."""

import torch


def should_use_bf16(device: torch.device) -> bool:
    """Whether `precision=auto` means bf16 autocast on this device.

    On GPUs that multiply bf16 natively (Ampere and later). On CPUs fp32 stays the choice, even
    where `multiplies_bf16` would make steps twice as fast: resumed and repeated runs are promised
    to agree on a CPU bit for bit, also between machines of which only one has the instructions.
    docs/performance.md has the scores of both.
    """
    return device.type == "cuda" and has_native_bf16(device)


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16: a GPU from Ampere on; AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)
