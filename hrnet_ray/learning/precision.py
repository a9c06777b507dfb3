"""Where half precision pays."""

import torch


def bf16_pays(device: torch.device) -> bool:
    """Whether bf16 autocast is faster than fp32 on this device: it multiplies bf16 natively.

    What has no such instructions emulates them, slower than fp32: most CPUs, GPUs before Ampere.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # no public name in torch 2.13
    return device.type == "cpu" and any(getattr(torch.cpu, ask, bool)() for ask in asks)
