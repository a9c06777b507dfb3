"""What trains: the GPU's driver against torch's CUDA, and how many crops fit into its memory."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.doctor.result import CheckResult, CheckSkipped, run_command, to_one_line

MIN_DRIVER_BY_CUDA = {11: 450, 12: 525, 13: 580}
"""By CUDA's major version, as docs.nvidia.com/deploy/cuda-compatibility has it."""
NVIDIA_SMI_TIMEOUT_S = 5.0
PROBE_BATCH_SIZES = (8, 16)
"""Crops of the two steps from which the memory of any batch is told."""
PROBE_KEYPOINTS = 17  # of the tried head; a few more or fewer change its memory by less than 1 %
USABLE_MEMORY_FRACTION = 0.9  # of the free memory: cuDNN's work space and fragments take the rest
BYTES_PER_GB = 1e9


@dataclass(frozen=True)
class GpuInfo:
    """A GPU as its driver tells it."""

    name: str
    driver_version: str


def check_driver() -> CheckResult:
    """Whether torch can use the GPUs that are here."""
    import torch

    cards = list_gpus()
    if not cards:
        return CheckResult("ok", f"no GPU: torch {torch.__version__} trains on the CPU, in fp32")
    if fault := find_driver_problem(cards[0], torch.version.cuda):
        return fault
    said = f"{len(cards)} x {cards[0].name}, driver {cards[0].driver_version}, CUDA {torch.version.cuda}"
    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return CheckResult("ok", f"{said}, {'bf16' if bf16 else 'no bf16: fp32'}")
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        said = f"{said}: {to_one_line(str(error))}"
    return CheckResult("wrong", said, "sudo nvidia-modprobe -u -c=0 && nvidia-smi")


def list_gpus() -> list[GpuInfo]:
    """The NVIDIA GPUs of this machine; none where there is no driver for them.

    Raises:
        CouldNotLook: the driver does not answer.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        if Path("/dev/nvidia0").exists():
            raise CheckSkipped("there is /dev/nvidia0, but no nvidia-smi to ask")
        return []
    fields = "--query-gpu=name,driver_version"
    done = run_command([program, fields, "--format=csv,noheader"], timeout_s=NVIDIA_SMI_TIMEOUT_S)
    if done.returncode:
        raise CheckSkipped(f"nvidia-smi: {to_one_line(done.stdout + done.stderr)}")
    rows = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line]
    return [GpuInfo(name.strip(), version.strip()) for name, version in rows]


def find_driver_problem(gpu_info: GpuInfo, cuda_version: str | None) -> CheckResult | None:
    """What is wrong between a GPU's driver and the CUDA that torch was built for, if anything."""
    if cuda_version is None:
        said = f"{gpu_info.name}, but this torch was built without CUDA"
        return CheckResult("wrong", said, "pip install --force-reinstall -c constraints.txt torch")
    major = int(cuda_version.split(".")[0])
    least = MIN_DRIVER_BY_CUDA.get(major, max(MIN_DRIVER_BY_CUDA.values()))
    if int(gpu_info.driver_version.split(".")[0]) >= least:
        return None
    said = f"driver {gpu_info.driver_version} of {gpu_info.name}: CUDA {cuda_version} wants {least} or newer"
    return CheckResult(
        "wrong", said, f"sudo apt-get install -y nvidia-driver-{least} && sudo reboot"
    )


def check_batch_size(experiment: ExperimentConfig, *, workers: int, measure: bool) -> CheckResult:
    """How many crops a step of `experiment` can hold on the first GPU.

    By trying, it takes two steps there: memory grows with the crops in a straight line.
    """
    import torch

    if not torch.cuda.is_available():
        said = "CPU: nothing to fit, the batch takes main memory"
        return (
            CheckResult("careful", f"{said}; no GPU to try") if measure else CheckResult("ok", said)
        )
    free, total = torch.cuda.mem_get_info()
    said = f"{free / BYTES_PER_GB:.0f} of {total / BYTES_PER_GB:.0f} GB free"
    if not measure:
        return CheckResult("unasked", f"{said}; --test-gpu tries how many crops fit")
    try:
        peaks = {crops: measure_step_bytes(experiment, crops) for crops in PROBE_BATCH_SIZES}
    except torch.cuda.OutOfMemoryError:
        fix = f"hrnet-ray train --optim.gradient-accumulation-steps {experiment.optim.batch_size // 2}"
        return CheckResult(
            "wrong", f"{said}; a step of {max(PROBE_BATCH_SIZES)} crops does not fit", fix
        )
    finally:
        torch.cuda.empty_cache()
    return check_worker_batch_size(
        said, estimate_max_batch_size(peaks, free), experiment, workers=workers
    )


def check_worker_batch_size(
    detail: str, max_crops: int, experiment: ExperimentConfig, *, workers: int
) -> CheckResult:
    """Whether a worker's share of the experiment's batch is among those that fit."""
    height, width = experiment.data.input_hw
    detail = (
        f"{detail}; up to {max_crops} crops of {width} x {height} fit W{experiment.model.width}"
    )
    share = -(
        -experiment.optim.batch_size // (workers * experiment.optim.gradient_accumulation_steps)
    )
    if share <= max_crops:
        return CheckResult("ok", f"{detail}, a worker takes {share}")
    parts = -(-experiment.optim.batch_size // (workers * max(1, max_crops)))
    fix = f"hrnet-ray train --optim.gradient-accumulation-steps {parts}"
    return CheckResult("careful", f"{detail}, but a worker takes {share}", fix)


def estimate_max_batch_size(peak_bytes: dict[int, int], free_bytes: int) -> int:
    """The largest batch for `free` bytes, by the straight line through two measured steps.

    `peaks` has the bytes of a step with so many crops. 0 where not even one fits.
    """
    (few, low), (many, high) = sorted(peak_bytes.items())
    each = max(1.0, (high - low) / (many - few))
    fixed = low - each * few  # weights, gradients, Adam's two moments
    return max(0, int((USABLE_MEMORY_FRACTION * free_bytes - fixed) / each))


def measure_step_bytes(experiment: ExperimentConfig, crops: int) -> int:
    """The most memory that a training step with so many crops takes on the first GPU."""
    import torch

    from hrnet_ray.models.hrnet import HRNet
    from hrnet_ray.training.optim import build_optimizer
    from hrnet_ray.training.precision import should_use_bf16

    device, shape = torch.device("cuda", 0), experiment.model
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    net = HRNet(
        shape.width, PROBE_KEYPOINTS, modules=shape.modules, blocks=shape.blocks, stem=shape.stem
    ).to(device)
    net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = build_optimizer(net, optimizer_name="adam", lr=1e-3, weight_decay=0.0)
    pictures = torch.randn(crops, 3, *experiment.data.input_hw, device=device)
    half = experiment.optim.precision != "fp32" and should_use_bf16(device)
    for _ in range(2):  # Adam makes its moments in the first step
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            predicted = net(pictures.contiguous(memory_format=torch.channels_last))
        predicted.float().square().mean().backward()
        optimizer.step()
    return torch.cuda.max_memory_reserved(device) - before
