"""The fused C routine computes BatchNorm, shortcut and ReLU at least as accurately as torch."""

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
from tests.small_models import make_small_hrnet, randomize_convolutions

try:
    native_extension.build_extension(fused_batchnorm.C_SOURCE_PATH)
except native_extension.ExtensionUnavailable as reason:
    pytest.skip(f"the extension is not available: {reason}", allow_module_level=True)

LAST = torch.channels_last
SIZES = [(3, 16, 5, 7), (8, 32, 32, 16), (2, 48, 9, 4), (4, 256, 6, 5), (2, 16, 2, 5)]


def make_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.2)
    nn.init.normal_(norm.weight, 1, 0.5)
    nn.init.normal_(norm.bias, 0, 0.5)
    return norm


def make_activations(size: tuple[int, ...]) -> Tensor:
    values = 2 * torch.randn(size) + torch.randn(size[1])[:, None, None]
    return values.bfloat16().contiguous(memory_format=LAST)


def apply_separately(norm: nn.BatchNorm2d, features: Tensor, shortcut: Tensor | None, *, relu: bool) -> Tensor:
    normed = norm(features)
    added = normed if shortcut is None else normed + shortcut
    return torch.relu(added) if relu else added


def apply_fused(norm: nn.BatchNorm2d, features: Tensor, shortcut: Tensor | None, *, relu: bool) -> Tensor:
    return FusedBatchNorm2d.from_batchnorm(norm).apply_norm(features, shortcut, relu=relu)


def run_step(run, norm: nn.BatchNorm2d, *tensors: Tensor, relu: bool, dtype=torch.bfloat16):
    """Return output, gradients and running statistics as float64."""
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
def test_fused_norm_is_as_accurate_as_torchs_operators(size: tuple[int, ...], relu: bool, added: bool, threads: int):
    norm = make_norm(size[1])
    tensors = [make_activations(size) for _ in range(3 if added else 2)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fused = run_step(apply_fused, norm, *tensors, relu=relu)
        separate = run_step(apply_separately, norm, *tensors, relu=relu)
    finally:
        torch.set_num_threads(before)
    truth = run_step(apply_separately, norm, *tensors, relu=relu, dtype=torch.float64)

    for fused_value, separate_value, expected in zip(fused, separate, truth, strict=True):
        norm_of_expected = expected.norm() + 1e-6
        fused_error, separate_error = (
            (fused_value - expected).norm() / norm_of_expected,
            (separate_value - expected).norm() / norm_of_expected,
        )
        assert fused_error < 4e-3  # bf16 has 8 bits
        assert fused_error < 1.1 * separate_error + 1e-6


def test_fused_norm_is_deterministic():
    norm, tensors = make_norm(32), [make_activations((4, 32, 24, 20)) for _ in range(3)]

    once, again = (run_step(apply_fused, norm, *tensors, relu=True) for _ in range(2))

    assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_nan_and_inf_spread_within_their_channel_only(wrong: float):
    features, shortcut = make_activations((2, 16, 4, 4)), make_activations((2, 16, 4, 4))
    features[1, 3, 2, 2] = wrong

    out = apply_fused(make_norm(16), features, shortcut, relu=True)

    assert out[:, 3].isnan().all()
    assert out[:, :3].isfinite().all()
    assert out[:, 4:].isfinite().all()


def test_nan_gradients_reach_weights_and_features():
    features = make_activations((2, 16, 4, 4)).requires_grad_()
    norm = FusedBatchNorm2d.from_batchnorm(make_norm(16))
    gradient = make_activations((2, 16, 4, 4))
    gradient[0, 5] = float("nan")

    norm.apply_norm(features, None, relu=False).backward(gradient)

    assert norm.weight.grad is not None
    assert features.grad is not None
    assert norm.weight.grad.isnan().tolist() == [channel == 5 for channel in range(16)]
    assert features.grad[1, 5].isnan().all()


def convert_to_fp32(features: Tensor) -> Tensor:
    return features.float()


def convert_to_channels_first(features: Tensor) -> Tensor:
    return features.contiguous()


def convert_to_odd_channels(features: Tensor) -> Tensor:
    return features[:, :7].contiguous(memory_format=LAST)


@pytest.mark.parametrize("make", [convert_to_fp32, convert_to_channels_first, convert_to_odd_channels])
def test_unsupported_tensors_use_torchs_operators(make):
    features, shortcut = make(make_activations((2, 16, 5, 4))), make(make_activations((2, 16, 5, 4)))
    norm = make_norm(features.shape[1])

    ours = apply_norm_add_relu(FusedBatchNorm2d.from_batchnorm(copy.deepcopy(norm)), features.clone(), shortcut)

    assert torch.equal(ours, apply_norm_add_relu(norm, features.clone(), shortcut))


def test_evaluation_mode_uses_torchs_operators():
    norm, features = make_norm(16).eval(), make_activations((2, 16, 5, 4))

    assert torch.equal(FusedBatchNorm2d.from_batchnorm(norm)(features), norm(features))


def make_small_model() -> HRNet:
    net = randomize_convolutions(make_small_hrnet(3, width=16, stem=16))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
    return net.to(memory_format=LAST)


def compute_gradients(net: nn.Module, crops: Tensor, *, bf16: bool) -> dict[str, Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        heatmaps = net.train()(crops)
    heatmaps.square().sum().backward()
    return {name: weight.grad.double() for name, weight in net.named_parameters()}


def test_gradients_of_a_fused_model_are_as_accurate_as_torchs():
    net, crops = make_small_model(), torch.randn(4, 3, 64, 32).contiguous(memory_format=LAST)
    fused = copy.deepcopy(net)
    assert convert_to_fused_batchnorm(fused)
    truth = compute_gradients(copy.deepcopy(net).double(), crops.double(), bf16=False)

    ours, theirs = (compute_gradients(one, crops, bf16=True) for one in (fused, net))

    def distance(found: dict[str, Tensor]) -> float:
        return sum(float((found[name] - true).norm() / (true.norm() + 1e-12)) for name, true in truth.items()) / len(
            truth
        )

    assert distance(ours) < 1.05 * distance(theirs)
    for name, statistic in net.named_buffers():
        torch.testing.assert_close(dict(fused.named_buffers())[name], statistic, rtol=0.05, atol=5e-3)


def test_each_relu_is_either_fused_or_kept():
    net = make_small_model()
    fused = copy.deepcopy(net)

    convert_to_fused_batchnorm(fused)

    relus = sum(isinstance(module, nn.ReLU) for module in net.modules())
    left = sum(isinstance(module, nn.ReLU) for module in fused.modules())
    done = sum(isinstance(module, FusedBatchNorm2d) and module.fuses_relu for module in fused.modules())
    assert (left, done) == (
        relus - done,
        5,
    )  # three transitions, two halvings on the way to stage 4


def test_conversion_keeps_names_weights_and_evaluation():
    net, crops = make_small_model(), torch.randn(2, 3, 32, 64)
    before, heatmaps = copy.deepcopy(net.state_dict()), fold_batchnorm(net)(crops)

    assert convert_to_fused_batchnorm(net)

    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(fold_batchnorm(net)(crops), heatmaps)
    assert torch.equal(fold_batchnorm(copy.deepcopy(net))(crops), heatmaps)


@pytest.fixture
def uncompiled():
    def clear_caches() -> None:
        native_extension.build_extension.cache_clear()
        fused_batchnorm._load_native_library.cache_clear()

    clear_caches()
    yield
    clear_caches()


@pytest.mark.parametrize(("compiler", "reason"), [("no-such-compiler", "no C compiler"), ("false", "false")])
def test_without_a_compiler_the_model_stays_and_one_line_is_logged(
    compiler: str, reason: str, uncompiled: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CC", compiler)
    net, messages = make_small_model(), []

    assert not convert_to_fused_batchnorm(net, log_message=messages.append)

    assert len(messages) == 1
    assert messages[0].startswith("BatchNorm and ReLU are not fused, so training is slower: ")
    assert messages[0].endswith(reason)
    assert not any(isinstance(module, FusedBatchNorm2d) for module in net.modules())


def test_a_compile_error_reports_the_first_line_of_the_compiler(tmp_path: Path):
    (tmp_path / "wrong.c").write_text("int f(void) { return g; }\n")

    with pytest.raises(native_extension.ExtensionUnavailable, match=r"wrong\.c"):
        native_extension.build_extension(tmp_path / "wrong.c")


def test_fused_norm_shares_torchs_openmp_runtime():
    """Two OpenMP runtimes would compete for the same cores."""
    code = (
        "import torch; from hrnet_ray.models import fused_batchnorm as f; f._load_native_library();"
        "lines = open('/proc/self/maps').read().split('\\n');"
        "print(len({line.split()[-1] for line in lines if 'gomp' in line}))"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout == "1\n"
