"""The routine makes of BatchNorm, shortcut and ReLU what torch's operators make, and closer."""

import copy
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hrnet_ray.models import HRNet, fused_batchnorm, native_extension
from hrnet_ray.models.bn_folding import fold_batchnorm
from hrnet_ray.models.fused_batchnorm import (
    FusedBatchNorm2d,
    apply_norm_add_relu,
    convert_to_fused_batchnorm,
)

try:
    native_extension.build_extension(fused_batchnorm.C_SOURCE_PATH)
except native_extension.ExtensionUnavailable as reason:
    pytest.skip(f"no routine here: {reason}", allow_module_level=True)

LAST = torch.channels_last
SIZES = [(3, 16, 5, 7), (8, 32, 32, 16), (2, 48, 9, 4), (4, 256, 6, 5), (2, 16, 2, 5)]


def norm_of(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.2)
    nn.init.normal_(norm.weight, 1, 0.5)
    nn.init.normal_(norm.bias, 0, 0.5)
    return norm


def activations(size: tuple[int, ...]) -> Tensor:
    values = 2 * torch.randn(size) + torch.randn(size[1])[:, None, None]
    return values.bfloat16().contiguous(memory_format=LAST)


def one_by_one(norm: nn.BatchNorm2d, features: Tensor, shortcut: Tensor | None, *, relu: bool) -> Tensor:
    normed = norm(features)
    added = normed if shortcut is None else normed + shortcut
    return torch.relu(added) if relu else added


def by_the_routine(norm: nn.BatchNorm2d, features: Tensor, shortcut: Tensor | None, *, relu: bool) -> Tensor:
    return FusedBatchNorm2d.from_batchnorm(norm).apply_norm(features, shortcut, relu=relu)


def step(run, norm: nn.BatchNorm2d, *tensors: Tensor, relu: bool, dtype=torch.bfloat16):
    """The output, and all gradients and statistics, as float64."""
    norm = copy.deepcopy(norm).to(torch.float64 if dtype == torch.float64 else torch.float32)
    features, gradient, *rest = (tensor.to(dtype) for tensor in tensors)
    leaves = [tensor.clone().requires_grad_() for tensor in (features, *rest)]
    out = run(norm, leaves[0], leaves[1] if rest else None, relu=relu)
    out.backward(gradient)
    found = [out, *(leaf.grad for leaf in leaves), norm.weight.grad, norm.bias.grad]
    return [tensor.detach().double() for tensor in (*found, norm.running_mean, norm.running_var)]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("relu", "added"), list(product((True, False), (True, False))))
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_it_is_nearer_to_float64_than_torchs_operators_are(
    size: tuple[int, ...], relu: bool, added: bool, threads: int
):
    norm = norm_of(size[1])
    tensors = [activations(size) for _ in range(3 if added else 2)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = step(by_the_routine, norm, *tensors, relu=relu)
        theirs = step(one_by_one, norm, *tensors, relu=relu)
    finally:
        torch.set_num_threads(before)
    truth = step(one_by_one, norm, *tensors, relu=relu, dtype=torch.float64)

    for one, other, true in zip(ours, theirs, truth, strict=True):
        size_of_truth = true.norm() + 1e-6
        own, other_one = (one - true).norm() / size_of_truth, (other - true).norm() / size_of_truth
        assert own < 4e-3  # bf16 has 8 bits
        assert own < 1.1 * other_one + 1e-6


def test_the_same_threads_give_the_same_bits():
    norm, tensors = norm_of(32), [activations((4, 32, 24, 20)) for _ in range(3)]

    once, again = (step(by_the_routine, norm, *tensors, relu=True) for _ in range(2))

    assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(wrong: float):
    features, shortcut = activations((2, 16, 4, 4)), activations((2, 16, 4, 4))
    features[1, 3, 2, 2] = wrong

    out = by_the_routine(norm_of(16), features, shortcut, relu=True)

    assert out[:, 3].isnan().all()
    assert out[:, :3].isfinite().all()
    assert out[:, 4:].isfinite().all()


def test_a_gradient_that_is_no_number_reaches_weights_and_features():
    features = activations((2, 16, 4, 4)).requires_grad_()
    norm = FusedBatchNorm2d.from_batchnorm(norm_of(16))
    gradient = activations((2, 16, 4, 4))
    gradient[0, 5] = float("nan")

    norm.apply_norm(features, None, relu=False).backward(gradient)

    assert norm.weight.grad is not None
    assert features.grad is not None
    assert norm.weight.grad.isnan().tolist() == [channel == 5 for channel in range(16)]
    assert features.grad[1, 5].isnan().all()


def as_fp32(features: Tensor) -> Tensor:
    return features.float()


def as_channels_first(features: Tensor) -> Tensor:
    return features.contiguous()


def as_odd_channels(features: Tensor) -> Tensor:
    return features[:, :7].contiguous(memory_format=LAST)


@pytest.mark.parametrize("make", [as_fp32, as_channels_first, as_odd_channels])
def test_what_the_routine_does_not_know_is_left_to_torch_bit_for_bit(make):
    features, shortcut = make(activations((2, 16, 5, 4))), make(activations((2, 16, 5, 4)))
    norm = norm_of(features.shape[1])

    ours = apply_norm_add_relu(FusedBatchNorm2d.from_batchnorm(copy.deepcopy(norm)), features.clone(), shortcut)

    assert torch.equal(ours, apply_norm_add_relu(norm, features.clone(), shortcut))


def test_a_norm_that_judges_is_torchs_own():
    norm, features = norm_of(16).eval(), activations((2, 16, 5, 4))

    assert torch.equal(FusedBatchNorm2d.from_batchnorm(norm)(features), norm(features))


def small_net() -> HRNet:
    net = HRNet(16, 3, modules=(1, 1, 1), blocks=1, stem=16)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):  # livelier than the published start, which tells nothing
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
    return net.to(memory_format=LAST)


def gradients(net: nn.Module, crops: Tensor, *, bf16: bool) -> dict[str, Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        heatmaps = net.train()(crops)
    heatmaps.square().sum().backward()
    return {name: weight.grad.double() for name, weight in net.named_parameters()}


def test_a_step_of_the_net_goes_where_float64_goes_at_least_as_well_as_by_operators():
    net, crops = small_net(), torch.randn(4, 3, 64, 32).contiguous(memory_format=LAST)
    fused = copy.deepcopy(net)
    assert convert_to_fused_batchnorm(fused)
    truth = gradients(copy.deepcopy(net).double(), crops.double(), bf16=False)

    ours, theirs = (gradients(one, crops, bf16=True) for one in (fused, net))

    def distance(found: dict[str, Tensor]) -> float:
        return sum(float((found[name] - true).norm() / (true.norm() + 1e-12)) for name, true in truth.items()) / len(
            truth
        )

    assert distance(ours) < 1.05 * distance(theirs)
    for name, statistic in net.named_buffers():
        torch.testing.assert_close(dict(fused.named_buffers())[name], statistic, rtol=0.05, atol=5e-3)


def test_no_relu_is_lost_and_none_done_twice():
    net = small_net()
    fused = copy.deepcopy(net)

    convert_to_fused_batchnorm(fused)

    relus = sum(isinstance(module, nn.ReLU) for module in net.modules())
    left = sum(isinstance(module, nn.ReLU) for module in fused.modules())
    done = sum(isinstance(module, FusedBatchNorm2d) and module.fuses_relu for module in fused.modules())
    assert (left, done) == (
        relus - done,
        5,
    )  # three transitions, two halvings on the way to stage 4


def test_names_weights_and_judgements_stay():
    net, crops = small_net(), torch.randn(2, 3, 32, 64)
    before, heatmaps = copy.deepcopy(net.state_dict()), fold_batchnorm(net)(crops)

    assert convert_to_fused_batchnorm(net)

    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(fold_batchnorm(net)(crops), heatmaps)
    assert torch.equal(fold_batchnorm(copy.deepcopy(net))(crops), heatmaps)


@pytest.fixture
def uncompiled():
    def forget() -> None:
        native_extension.build_extension.cache_clear()
        fused_batchnorm._load_native_library.cache_clear()

    forget()
    yield
    forget()


@pytest.mark.parametrize(("compiler", "reason"), [("no-such-compiler", "no C compiler"), ("false", "false")])
def test_without_a_compiler_the_model_stays_and_one_line_says_so(
    compiler: str, reason: str, uncompiled: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CC", compiler)
    net, heard = small_net(), []

    assert not convert_to_fused_batchnorm(net, log_message=heard.append)

    assert len(heard) == 1
    assert heard[0].startswith("BatchNorm and ReLU one by one, which takes longer: ")
    assert heard[0].endswith(reason)
    assert not any(isinstance(module, FusedBatchNorm2d) for module in net.modules())


def test_a_source_that_is_no_c_is_told_by_its_first_complaint(tmp_path: Path):
    (tmp_path / "wrong.c").write_text("int f(void) { return g; }\n")

    with pytest.raises(native_extension.ExtensionUnavailable, match=r"wrong\.c"):
        native_extension.build_extension(tmp_path / "wrong.c")


def test_the_routines_threads_are_torchs_own():
    """Two sets of threads would wait for each other's cores."""
    code = (
        "import torch; from hrnet_ray.models import fused_batchnorm as f; f._load_native_library();"
        "lines = open('/proc/self/maps').read().split('\\n');"
        "print(len({line.split()[-1] for line in lines if 'gomp' in line}))"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout == "1\n"
