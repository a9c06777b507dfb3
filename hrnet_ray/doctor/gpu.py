"""What trains: the GPU's driver against torch's CUDA, and how many crops fit into its memory."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.config import Experiment
from hrnet_ray.doctor.result import CouldNotLook, Finding, asked, in_short

LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
"""By CUDA's major version, as docs.nvidia.com/deploy/cuda-compatibility has it."""
SMI_S = 5.0
TRIED = (8, 16)
"""Crops of the two steps from which the memory of any batch is told."""
KEYPOINTS = 17  # of the tried head; a few more or fewer change its memory by less than 1 %
FILLED = 0.9  # of the free memory: cuDNN's work space and fragments take the rest
GB = 1e9


@dataclass(frozen=True)
class Card:
    """A GPU as its driver tells it."""

    name: str
    driver: str


def driver() -> Finding:
    """Whether torch can use the GPUs that are here."""
    import torch

    cards = cards_here()
    if not cards:
        return Finding("ok", f"no GPU: torch {torch.__version__} trains on the CPU, in fp32")
    if fault := driver_fault(cards[0], torch.version.cuda):
        return fault
    said = f"{len(cards)} x {cards[0].name}, driver {cards[0].driver}, CUDA {torch.version.cuda}"
    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Finding("ok", f"{said}, {'bf16' if bf16 else 'no bf16: fp32'}")
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        said = f"{said}: {in_short(str(error))}"
    return Finding("wrong", said, "sudo nvidia-modprobe -u -c=0 && nvidia-smi")


def cards_here() -> list[Card]:
    """The NVIDIA GPUs of this machine; none where there is no driver for them.

    Raises:
        CouldNotLook: the driver does not answer.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        if Path("/dev/nvidia0").exists():
            raise CouldNotLook("there is /dev/nvidia0, but no nvidia-smi to ask")
        return []
    fields = "--query-gpu=name,driver_version"
    done = asked([program, fields, "--format=csv,noheader"], limit_s=SMI_S)
    if done.returncode:
        raise CouldNotLook(f"nvidia-smi: {in_short(done.stdout + done.stderr)}")
    rows = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line]
    return [Card(name.strip(), version.strip()) for name, version in rows]


def driver_fault(card: Card, cuda: str | None) -> Finding | None:
    """What is wrong between a GPU's driver and the CUDA that torch was built for, if anything."""
    if cuda is None:
        said = f"{card.name}, but this torch was built without CUDA"
        return Finding("wrong", said, "pip install --force-reinstall -c constraints.txt torch")
    major = int(cuda.split(".")[0])
    least = LEAST_DRIVER.get(major, max(LEAST_DRIVER.values()))
    if int(card.driver.split(".")[0]) >= least:
        return None
    said = f"driver {card.driver} of {card.name}: CUDA {cuda} wants {least} or newer"
    return Finding("wrong", said, f"sudo apt-get install -y nvidia-driver-{least} && sudo reboot")


def batch(experiment: Experiment, *, workers: int, by_trying: bool) -> Finding:
    """How many crops a step of `experiment` can hold on the first GPU.

    By trying, it takes two steps there: memory grows with the crops in a straight line.
    """
    import torch

    if not torch.cuda.is_available():
        said = "CPU: nothing to fit, the batch takes main memory"
        return Finding("careful", f"{said}; no GPU to try") if by_trying else Finding("ok", said)
    free, total = torch.cuda.mem_get_info()
    said = f"{free / GB:.0f} of {total / GB:.0f} GB free"
    if not by_trying:
        return Finding("unasked", f"{said}; --gpu tries how many crops fit")
    try:
        peaks = {crops: step_bytes(experiment, crops) for crops in TRIED}
    except torch.cuda.OutOfMemoryError:
        fix = f"hrnet-ray train --optim.accumulate {experiment.optim.batch_size // 2}"
        return Finding("wrong", f"{said}; a step of {max(TRIED)} crops does not fit", fix)
    finally:
        torch.cuda.empty_cache()
    return batch_finding(said, crops_that_fit(peaks, free), experiment, workers=workers)


def batch_finding(said: str, fits: int, experiment: Experiment, *, workers: int) -> Finding:
    """Whether a worker's share of the experiment's batch is among those that fit."""
    height, width = experiment.data.input_hw
    said = f"{said}; up to {fits} crops of {width} x {height} fit W{experiment.model.width}"
    share = -(-experiment.optim.batch_size // (workers * experiment.optim.accumulate))
    if share <= fits:
        return Finding("ok", f"{said}, a worker takes {share}")
    parts = -(-experiment.optim.batch_size // (workers * max(1, fits)))
    fix = f"hrnet-ray train --optim.accumulate {parts}"
    return Finding("careful", f"{said}, but a worker takes {share}", fix)


def crops_that_fit(peaks: dict[int, int], free: int) -> int:
    """The largest batch for `free` bytes, by the straight line through two measured steps.

    `peaks` has the bytes of a step with so many crops. 0 where not even one fits.
    """
    (few, low), (many, high) = sorted(peaks.items())
    each = max(1.0, (high - low) / (many - few))
    fixed = low - each * few  # weights, gradients, Adam's two moments
    return max(0, int((FILLED * free - fixed) / each))


def step_bytes(experiment: Experiment, crops: int) -> int:
    """The most memory that a training step with so many crops takes on the first GPU."""
    import torch

    from hrnet_ray.models.hrnet import HRNet
    from hrnet_ray.training.optim import make_optimizer
    from hrnet_ray.training.precision import bf16_pays

    device, shape = torch.device("cuda", 0), experiment.model
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    net = HRNet(
        shape.width, KEYPOINTS, modules=shape.modules, blocks=shape.blocks, stem=shape.stem
    ).to(device)
    net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = make_optimizer(net, algorithm="adam", lr=1e-3, weight_decay=0.0)
    pictures = torch.randn(crops, 3, *experiment.data.input_hw, device=device)
    half = experiment.optim.precision != "fp32" and bf16_pays(device)
    for _ in range(2):  # Adam makes its moments in the first step
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            predicted = net(pictures.contiguous(memory_format=torch.channels_last))
        predicted.float().square().mean().backward()
        optimizer.step()
    return torch.cuda.max_memory_reserved(device) - before
