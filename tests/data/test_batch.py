"""From decoded rows to what a model sees: replayed by id, and every point on its pixel."""

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from hrnet_ray.config import AugmentationConfig
from hrnet_ray.data import records
from hrnet_ray.data.annotations import PoseInstance
from hrnet_ray.data.batch import (
    AugmentationPipelineConfig,
    RawTrainBatch,
    augment_batch,
    normalize_crops,
    to_eval_batch,
    to_raw_train_batch,
    warp_batch,
)
from hrnet_ray.pose.augmentation import IMAGENET_MEAN, IMAGENET_STD
from hrnet_ray.pose.geometry import transform_points
from hrnet_ray.skeletons import Skeleton

PAWS = Skeleton(name="paws", keypoints=("left_paw", "right_paw", "nose"), upper_body=(2,))
COLOURS = torch.eye(3)  # the left paw is a red dot, the right one a green, the nose a blue one
INPUT_HW = (64, 48)
CANVAS_PX = 112
CPU = torch.device("cpu")
STILL = AugmentationConfig(scale_factor=0.0, rotation_deg=0.0, rotation_prob=0.0, flip_prob=0.0)
LIVELY = AugmentationConfig(rotation_prob=1.0, brightness=0.3, contrast=0.3, saturation=0.3)


def recipe(augmentation: AugmentationConfig, *, seed: int = 7) -> AugmentationPipelineConfig:
    return AugmentationPipelineConfig(
        skeleton=PAWS, input_hw=INPUT_HW, padding=1.25, augmentation=augmentation, seed=seed
    )


def dots(count: int) -> RawTrainBatch:
    """`count` rows, each with three dots near the middle of its box."""
    chance = torch.Generator().manual_seed(1)
    image_xy = torch.rand(count, 3, 2, generator=chance) * 20 + torch.tensor([60.0, 80.0])
    canvas_from_image = torch.tensor([[0.8, 0.0, -8.0], [0.0, 0.8, -20.0], [0.0, 0.0, 1.0]])
    matrices = canvas_from_image.expand(count, 3, 3)
    return RawTrainBatch(
        ids=torch.arange(count) * 11 + 3,
        canvases=_drawn(transform_points(matrices, image_xy)),
        canvas_from_image=matrices,
        box_xywh=torch.tensor([[50.0, 65.0, 40.0, 50.0]]).expand(count, 4),
        image_xy=image_xy,
        visible=torch.ones(count, 3, dtype=torch.bool),
    )


def _drawn(canvas_xy: Tensor) -> Tensor:
    pixels = torch.arange(CANVAS_PX)
    x, y = (torch.exp(-(pixels - canvas_xy[..., axis, None]).square() / 4) for axis in (0, 1))
    bells = y[..., :, None] * x[..., None, :]  # [B, 3, S, S]
    return torch.einsum("bkhw,kc->bhwc", 255 * bells, COLOURS).round().byte()


def chosen(batch: RawTrainBatch, places: list[int]) -> RawTrainBatch:
    told = vars(batch).items()
    columns = {name: column[places] for name, column in told if isinstance(column, torch.Tensor)}
    return RawTrainBatch(**columns)


def middles(crops: Tensor) -> Tensor:
    """Where the dot of each colour is, [B, 3, 2]."""
    light = crops / crops.sum((-2, -1), keepdim=True)
    x = (light.sum(-2) * torch.arange(crops.shape[-1])).sum(-1)
    y = (light.sum(-1) * torch.arange(crops.shape[-2])).sum(-1)
    return torch.stack([x, y], dim=-1)


@pytest.mark.parametrize("parts", [[[8, 3, 0, 5, 1, 7, 2, 6, 4]], [[4], [8, 0, 2], [1, 3, 5, 6, 7]]])
def test_a_row_becomes_the_same_crop_in_any_order_and_any_company(parts: list[list[int]]):
    batch = dots(9)
    whole = augment_batch(batch, recipe(LIVELY), epoch=4)

    for places in parts:
        part = augment_batch(chosen(batch, places), recipe(LIVELY), epoch=4)

        assert torch.equal(part.crops, whole.crops[places])
        assert torch.equal(part.crop_xy, whole.crop_xy[places])
        assert torch.equal(part.visible, whole.visible[places])


@pytest.mark.parametrize(("seed", "epoch"), [(7, 5), (8, 4)])
def test_another_epoch_or_seed_warps_and_colours_every_row_anew(seed: int, epoch: int):
    batch = dots(9)
    before = augment_batch(batch, recipe(LIVELY), epoch=4)

    after = augment_batch(batch, recipe(LIVELY, seed=seed), epoch=epoch)

    assert ((after.crop_xy - before.crop_xy).abs().amax((1, 2)) > 0.1).all()
    assert ((after.crops - before.crops).abs().amax((1, 2, 3)) > 0.1).all()


def test_a_dot_lands_where_its_point_says_and_a_mirrored_one_changes_its_name():
    batch = dots(32)

    crops = warp_batch(batch, recipe(AugmentationConfig(rotation_prob=1.0)), epoch=0)

    seen_xy = middles(crops.crops)
    upright = (crops.crop_xy - seen_xy).abs().amax((1, 2)) < 0.1
    mirrored = (crops.crop_xy[:, [1, 0, 2]] - seen_xy).abs().amax((1, 2)) < 0.1
    assert torch.equal(upright, ~mirrored)
    assert 8 < mirrored.sum() < 24


def test_a_hidden_keypoint_stays_hidden_under_its_mirrored_name():
    batch = dots(8)
    batch.visible[:, 0] = False

    crops = warp_batch(batch, recipe(AugmentationConfig(flip_prob=1.0)), epoch=0)

    assert crops.visible.tolist() == [[True, False, True]] * 8


def test_without_chance_it_is_the_published_crop_within_a_grey_level():
    noise = np.random.default_rng(5).uniform(0, 255, (150, 200))
    light = np.clip(5 * (cv2.GaussianBlur(noise, (0, 0), 3) - 127) + 127, 0, 255)
    picture = np.multiply.outer(light, (1.0, 0.95, 0.9)).astype(np.uint8)
    instance = PoseInstance(
        id=2,
        image_id=2,
        image="2.png",
        category_id=1,
        box_xywh=(70.0, 60.0, 40.0, 50.0),
        area=2000.0,
        head_size=float("nan"),
        image_xy=np.array([[80.0, 70.0], [99.5, 88.0], [0.0, 0.0]]),
        visible=np.array([True, True, False]),
    )
    _, png = cv2.imencode(".png", picture[..., ::-1])
    schema = records.build_arrow_schema(3)
    stored = records.build_cropped_record(instance, png.tobytes(), picture, canvas_px=CANVAS_PX)
    exact = records.build_full_image_record(instance, png.tobytes())
    table, exact_table = (pa.Table.from_pylist([row], schema=schema) for row in (stored, exact))

    canvases = to_raw_train_batch(records.decode_train_batch(table, canvas_px=CANVAS_PX), CPU)
    published = to_eval_batch(records.decode_eval_batch(exact_table, input_hw=INPUT_HW, padding=1.25), CPU)
    made = warp_batch(canvases, recipe(STILL), epoch=0)

    difference = 255 * made.crops - published.crops.permute(0, 3, 1, 2)
    assert published.crops.float().std() > 30  # there is something to compare
    assert difference.abs().mean() < 1
    expected_xy = transform_points(published.crop_from_image, canvases.image_xy.double())
    assert torch.allclose(made.crop_xy.double(), expected_xy, atol=1e-3)


def test_arrays_that_ray_lends_are_copied_and_others_are_not():
    crops = np.zeros((2, *INPUT_HW, 3), np.uint8)
    arrays = {"id": np.arange(2), "crop": crops, "crop_from_image": np.zeros((2, 3, 3))}
    to_eval_batch(arrays, CPU).crops[:] = 9
    assert crops.max() == 9

    crops.flags.writeable = False
    to_eval_batch(arrays, CPU).crops[:] = 7

    assert crops.max() == 9


def test_a_model_sees_each_channel_by_its_own_mean_and_deviation():
    crops = torch.tensor([51, 102, 204], dtype=torch.uint8).expand(1, 8, 6, 3)

    seen = normalize_crops(crops)

    assert seen.shape == (1, 3, 8, 6)
    for channel, value in enumerate((0.2, 0.4, 0.8)):
        expected = (value - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        assert torch.allclose(seen[:, channel], torch.tensor(expected), atol=1e-6)
