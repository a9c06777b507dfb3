"""HRNet: a network that keeps a high-resolution branch from input to output (Sun et al., CVPR 2019).

Layers and weight names follow the published code,
https://github.com/leoxiaobin/deep-high-resolution-net.pytorch (lib/models/pose_hrnet.py, MIT
License, Copyright (c) Microsoft). Its checkpoints load without a key map.

The branches of a stage run in parallel. Branch b has `width * 2**b` channels and 1 / 2**b of the
resolution. At the end of each module, every branch receives the sum of all branches ("fuse").
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hrnet_ray.config import COARSEST_STRIDE
from hrnet_ray.models.fused_batchnorm import apply_norm_add_relu

BN_MOMENTUM = 0.1


class HRNet(nn.Module):
    """HRNet for keypoints: one heatmap per keypoint, with a quarter of the crop's height and width.

    Args:
        width: number of channels of the high-resolution branch; 32 and 48 are the published models.
        keypoints: number of heatmaps.
        modules: number of exchange modules in stages 2, 3 and 4.
        blocks: number of residual blocks per branch of a module, and of bottlenecks in layer1.
        stem: number of channels of the stem; layer1 outputs 4 times as many.

    `HRNet(16, 15, modules=(1, 1, 1), blocks=2, stem=32)` is a small model for laptops and tests.
    """

    def __init__(
        self,
        width: int = 32,
        keypoints: int = 16,
        *,
        modules: tuple[int, int, int] = (1, 4, 3),
        blocks: int = 4,
        stem: int = 64,
    ) -> None:
        super().__init__()
        self.width, self.keypoints = width, keypoints
        self.conv1, self.bn1 = _make_conv3x3(3, stem, stride=2), _make_batchnorm(stem)
        self.conv2, self.bn2 = _make_conv3x3(stem, stem, stride=2), _make_batchnorm(stem)
        self.layer1 = nn.Sequential(
            *(BottleneckBlock(stem if block == 0 else 4 * stem, stem) for block in range(blocks))
        )
        two, three, four = (compute_branch_channels(width, branches) for branches in (2, 3, 4))
        self.transition1 = _make_transition_layer([4 * stem], two)
        self.stage2 = _make_stage(two, modules[0], blocks)
        self.transition2 = _make_transition_layer(two, three)
        self.stage3 = _make_stage(three, modules[1], blocks)
        self.transition3 = _make_transition_layer(three, four)
        self.stage4 = _make_stage(four, modules[2], blocks, num_outputs=1)
        self.final_layer = nn.Conv2d(width, keypoints, kernel_size=1)
        self.apply(init_weights)

    def forward(self, crops: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K H/4 W/4"]:
        """Predict heatmaps. Raises ValueError unless H and W are multiples of 32."""
        height, width = crops.shape[-2:]
        if height % COARSEST_STRIDE or width % COARSEST_STRIDE:
            raise ValueError(
                f"height and width of a crop must be multiples of {COARSEST_STRIDE}, got {height} x {width}"
            )
        features = apply_norm_add_relu(self.bn1, self.conv1(crops))
        features = apply_norm_add_relu(self.bn2, self.conv2(features))
        branches = [self.layer1(features)]
        branches = self.stage2(_apply_transition(self.transition1, branches))
        branches = self.stage3(_apply_transition(self.transition2, branches))
        branches = self.stage4(_apply_transition(self.transition3, branches))
        return self._predict_heatmaps(branches[0])

    def _predict_heatmaps(self, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        """Apply the final layer in the precision of its weights, also under autocast."""
        precision = self.final_layer.weight.dtype
        if features.dtype == precision:
            return self.final_layer(features)
        with torch.autocast(features.device.type, enabled=False):
            return self.final_layer(features.to(precision))


def compute_branch_channels(width: int, num_branches: int) -> list[int]:
    """Return the channels of each branch, doubled from branch to branch: 32, 64, 128, 256."""
    return [width * 2**branch for branch in range(num_branches)]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; channels and resolution stay the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _make_conv3x3(channels, channels), _make_batchnorm(channels)
        self.conv2, self.bn2 = _make_conv3x3(channels, channels), _make_batchnorm(channels)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        residual = apply_norm_add_relu(self.bn1, self.conv1(features))
        return apply_norm_add_relu(self.bn2, self.conv2(residual), features)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; outputs 4 times `channels`."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        channels_out = 4 * channels
        self.conv1, self.bn1 = _make_conv1x1(channels_in, channels), _make_batchnorm(channels)
        self.conv2, self.bn2 = _make_conv3x3(channels, channels), _make_batchnorm(channels)
        self.conv3, self.bn3 = _make_conv1x1(channels, channels_out), _make_batchnorm(channels_out)
        self.downsample = None  # the published name of a shortcut that changes the number of channels
        if channels_in != channels_out:
            self.downsample = nn.Sequential(_make_conv1x1(channels_in, channels_out), _make_batchnorm(channels_out))

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        residual = apply_norm_add_relu(self.bn1, self.conv1(features))
        residual = apply_norm_add_relu(self.bn2, self.conv2(residual))
        shortcut = features if self.downsample is None else self.downsample(features)
        return apply_norm_add_relu(self.bn3, self.conv3(residual), shortcut)


class HRModule(nn.Module):
    """Residual blocks on each branch, then a sum of all branches for each of the first `num_outputs`."""

    def __init__(self, channels: Sequence[int], num_blocks: int, num_outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(count) for _ in range(num_blocks))) for count in channels
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_make_fuse_path(channels, source, target) for source in range(len(channels)))
            for target in range(num_outputs)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        refined = [blocks(branch) for blocks, branch in zip(self.branches, branches, strict=True)]
        return [self.relu(_sum_branches(paths, refined)) for paths in self.fuse_layers]


def _sum_branches(paths: nn.Module, branches: list[Tensor]) -> Tensor:
    """Sum the branches, each brought to the target resolution by its path.

    The order is that of the published code, from branch 0 on: float addition is not associative.
    """
    first, second, *others = (path(branch) for path, branch in zip(paths.children(), branches, strict=True))
    total = first + second  # a new tensor, so the others can be added in place
    for other in others:
        total += other
    return total


def _make_fuse_path(channels: Sequence[int], source_branch: int, target_branch: int) -> nn.Module:
    """Build the layers from the channels and resolution of the source branch to the target branch."""
    if source_branch == target_branch:
        return nn.Identity()
    if source_branch > target_branch:  # the source is coarser: reduce channels, then upsample
        return nn.Sequential(
            _make_conv1x1(channels[source_branch], channels[target_branch]),
            _make_batchnorm(channels[target_branch]),
            nn.Upsample(scale_factor=2 ** (source_branch - target_branch), mode="nearest"),
        )
    # The source is finer: halve it step by step. Only the last step changes the channels; it has no ReLU.
    halvings = [
        nn.Sequential(
            *_make_downsample_layers(channels[source_branch], channels[source_branch]),
            nn.ReLU(inplace=True),
        )
        for _ in range(target_branch - source_branch - 1)
    ]
    return nn.Sequential(
        *halvings,
        nn.Sequential(*_make_downsample_layers(channels[source_branch], channels[target_branch])),
    )


def _make_transition_layer(channels_before: Sequence[int], channels_after: Sequence[int]) -> nn.ModuleList:
    """Build the layers between two stages; the next stage has one more, coarser branch."""
    paths: list[nn.Module] = []
    for branch, channels in enumerate(channels_after):
        if branch >= len(channels_before):
            paths.append(
                nn.Sequential(
                    nn.Sequential(
                        *_make_downsample_layers(channels_before[-1], channels),
                        nn.ReLU(inplace=True),
                    )
                )
            )
        elif channels_before[branch] == channels:
            paths.append(nn.Identity())
        else:
            paths.append(
                nn.Sequential(
                    _make_conv3x3(channels_before[branch], channels),
                    _make_batchnorm(channels),
                    nn.ReLU(inplace=True),
                )
            )
    return nn.ModuleList(paths)


def _apply_transition(transition: nn.ModuleList, branches: list[Tensor]) -> list[Tensor]:
    """Apply a transition; the new, coarsest branch is computed from the last old one."""
    return [path(branches[min(index, len(branches) - 1)]) for index, path in enumerate(transition)]


def _make_stage(
    channels: Sequence[int], num_modules: int, num_blocks: int, *, num_outputs: int | None = None
) -> nn.Sequential:
    """Build a sequence of exchange modules; the last one outputs the first `num_outputs` branches."""
    num_branches = len(channels)
    output_counts = [num_branches] * (num_modules - 1) + [num_outputs or num_branches]
    return nn.Sequential(*(HRModule(channels, num_blocks, count) for count in output_counts))


def _make_downsample_layers(channels_in: int, channels_out: int) -> tuple[nn.Module, nn.Module]:
    return _make_conv3x3(channels_in, channels_out, stride=2), _make_batchnorm(channels_out)


def _make_conv3x3(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)


def _make_conv1x1(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 1, bias=False)


def _make_batchnorm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=BN_MOMENTUM)  # initialized with weight 1 and bias 0, as published


def init_kaiming(model: HRNet) -> None:
    """Initialize all convolutions but the last layer for ReLU (He et al., 2015), scaled by fan-out."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module is not model.final_layer:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def init_weights(module: nn.Module) -> None:
    """Initialize as published: convolutions from a normal distribution of std 0.001, biases 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.001)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
