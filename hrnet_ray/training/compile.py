"""torch.compile with a trial on one batch, before a run relies on it."""

from collections.abc import Callable

import torch
from torch import nn


def try_compile_model(
    model: nn.Module,
    *,
    crops_shape: tuple[int, int, int, int],
    bf16: bool = False,
    backend: str = "inductor",
    log_line: Callable[[str], None] = print,
) -> bool:
    """Compile `model` in place; if that fails, log one line and leave it uncompiled.

    The names of the weights do not change. The trial runs forward and backward on crops of
    `crops_shape` and leaves no gradients and no BatchNorm statistics.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    device = next(model.parameters()).device
    crops = torch.zeros(crops_shape, device=device).contiguous(memory_format=torch.channels_last)
    model.train()
    try:
        model.compile(backend=backend)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            heatmaps = model(crops)
        heatmaps.float().sum().backward()
    except Exception as error:  # compilers fail in many ways; eager mode works
        model._compiled_call_impl = None
        reason = (str(error).strip().splitlines() or [""])[0]
        log_line(f"optim.compile: continuing uncompiled ({type(error).__name__}: {reason[:160]})")
        return False
    finally:
        model.zero_grad(set_to_none=True)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return True
