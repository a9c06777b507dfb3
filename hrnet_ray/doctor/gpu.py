"""Checks of the GPU driver against the CUDA version of torch, and of the batch size."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.doctor.result import CheckResult, CheckSkipped, run_command, to_one_line

MIN_DRIVER_BY_CUDA = {11: 450, 12: 525, 13: 580}
"""Minimum driver by major CUDA version, from docs.nvidia.com/deploy/cuda-compatibility."""
NVIDIA_SMI_TIMEOUT_S = 5.0
PROBE_BATCH_SIZES = (8, 16)
"""Batch sizes of the two steps from which the memory of other batch sizes is extrapolated."""
PROBE_KEYPOINTS = 17
"""Keypoints of the measured model; a few more or fewer change its memory by less than 1 %."""
USABLE_MEMORY_FRACTION = 0.9
"""Usable fraction of the free memory; cuDNN workspaces and fragmentation take the rest."""
BYTES_PER_GB = 1e9


@dataclass(frozen=True)
class GpuInfo:
    """Name and driver version of a GPU, from nvidia-smi."""

    name: str
    driver_version: str


def check_driver() -> CheckResult:
    """Check that torch can use the GPUs of this machine."""
    import torch

    gpus = list_gpus()
    if not gpus:
        return CheckResult("ok", f"no GPU: torch {torch.__version__} trains on the CPU, in fp32")
    if problem := find_driver_problem(gpus[0], torch.version.cuda):
        return problem
    detail = f"{len(gpus)} x {gpus[0].name}, driver {gpus[0].driver_version}, CUDA {torch.version.cuda}"
    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return CheckResult("ok", f"{detail}, {'bf16' if bf16 else 'no bf16: fp32'}")
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        detail = f"{detail}: {to_one_line(str(error))}"
    return CheckResult("wrong", detail, "sudo nvidia-modprobe -u -c=0 && nvidia-smi")


def list_gpus() -> list[GpuInfo]:
    """List the NVIDIA GPUs of this machine; empty without a driver.

    Raises:
        CheckSkipped: the driver does not answer.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        if Path("/dev/nvidia0").exists():
            raise CheckSkipped("/dev/nvidia0 exists, but nvidia-smi is missing")
        return []
    fields = "--query-gpu=name,driver_version"
    done = run_command([program, fields, "--format=csv,noheader"], timeout_s=NVIDIA_SMI_TIMEOUT_S)
    if done.returncode:
        raise CheckSkipped(f"nvidia-smi: {to_one_line(done.stdout + done.stderr)}")
    rows = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line]
    return [GpuInfo(name.strip(), version.strip()) for name, version in rows]


def find_driver_problem(gpu_info: GpuInfo, cuda_version: str | None) -> CheckResult | None:
    """Return a `wrong` result if the driver is too old for the CUDA version of torch, else None."""
    if cuda_version is None:
        detail = f"{gpu_info.name}, but this torch was built without CUDA"
        return CheckResult("wrong", detail, "pip install --force-reinstall -c constraints.txt torch")
    major = int(cuda_version.split(".")[0])
    minimum = MIN_DRIVER_BY_CUDA.get(major, max(MIN_DRIVER_BY_CUDA.values()))
    if int(gpu_info.driver_version.split(".")[0]) >= minimum:
        return None
    detail = f"driver {gpu_info.driver_version} of {gpu_info.name}: CUDA {cuda_version} needs {minimum} or newer"
    return CheckResult("wrong", detail, f"sudo apt-get install -y nvidia-driver-{minimum} && sudo reboot")


def check_batch_size(experiment: ExperimentConfig, *, workers: int, measure: bool) -> CheckResult:
    """Check that the batch of a worker fits the first GPU.

    With `measure`, two training steps run on the GPU; memory grows linearly with the batch size.
    """
    import torch

    if not torch.cuda.is_available():
        detail = "CPU: no limit of GPU memory"
        return CheckResult("careful", f"{detail}; no GPU to test") if measure else CheckResult("ok", detail)
    free, total = torch.cuda.mem_get_info()
    detail = f"{free / BYTES_PER_GB:.0f} of {total / BYTES_PER_GB:.0f} GB free"
    if not measure:
        return CheckResult("unasked", f"{detail}; --test-gpu measures how many crops fit")
    try:
        peaks = {crops: measure_step_bytes(experiment, crops) for crops in PROBE_BATCH_SIZES}
    except torch.cuda.OutOfMemoryError:
        steps = experiment.optim.batch_size // 2
        fix = f"hrnet-ray train --optim.gradient-accumulation-steps {steps}"
        return CheckResult("wrong", f"{detail}; a step of {max(PROBE_BATCH_SIZES)} crops does not fit", fix)
    finally:
        torch.cuda.empty_cache()
    return check_worker_batch_size(detail, estimate_max_batch_size(peaks, free), experiment, workers=workers)


def check_worker_batch_size(detail: str, max_crops: int, experiment: ExperimentConfig, *, workers: int) -> CheckResult:
    """Check the batch size of one worker against the number of crops that fit."""
    height, width = experiment.data.input_hw
    detail = f"{detail}; up to {max_crops} crops of {width} x {height} fit W{experiment.model.width}"
    worker_batch = -(-experiment.optim.batch_size // (workers * experiment.optim.gradient_accumulation_steps))
    if worker_batch <= max_crops:
        return CheckResult("ok", f"{detail}, a worker uses {worker_batch}")
    steps = -(-experiment.optim.batch_size // (workers * max(1, max_crops)))
    fix = f"hrnet-ray train --optim.gradient-accumulation-steps {steps}"
    return CheckResult("careful", f"{detail}, but a worker uses {worker_batch}", fix)


def estimate_max_batch_size(peak_bytes: dict[int, int], free_bytes: int) -> int:
    """Extrapolate the largest batch for `free_bytes` from two measured steps; 0 if none fits.

    `peak_bytes` holds the peak memory of a step by its number of crops.
    """
    (small, small_bytes), (large, large_bytes) = sorted(peak_bytes.items())
    bytes_per_crop = max(1.0, (large_bytes - small_bytes) / (large - small))
    fixed_bytes = small_bytes - bytes_per_crop * small  # weights, gradients, Adam's moments
    return max(0, int((USABLE_MEMORY_FRACTION * free_bytes - fixed_bytes) / bytes_per_crop))


def measure_step_bytes(experiment: ExperimentConfig, crops: int) -> int:
    """Measure the peak memory of a training step with `crops` crops on the first GPU, in bytes."""
    import torch

    from hrnet_ray.models.hrnet import HRNet
    from hrnet_ray.training.optim import build_optimizer
    from hrnet_ray.training.precision import should_use_bf16

    device, shape = torch.device("cuda", 0), experiment.model
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    model = HRNet(shape.width, PROBE_KEYPOINTS, modules=shape.modules, blocks=shape.blocks, stem=shape.stem).to(device)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = build_optimizer(model, optimizer_name="adam", lr=1e-3, weight_decay=0.0)
    images = torch.randn(crops, 3, *experiment.data.input_hw, device=device)
    use_bf16 = experiment.optim.precision != "fp32" and should_use_bf16(device)
    for _ in range(2):  # Adam allocates its moments in the first step
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=use_bf16):
            predicted = model(images.contiguous(memory_format=torch.channels_last))
        predicted.float().square().mean().backward()
        optimizer.step()
    return torch.cuda.max_memory_reserved(device) - before
