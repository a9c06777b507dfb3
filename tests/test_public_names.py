"""Public names and parameters that code outside the package relies on."""

import inspect
from importlib import import_module

import pytest


@pytest.mark.parametrize(
    ("module", "name", "parameters"),
    [
        ("models.pretrained", "load_pretrained", "model path"),
        ("pose.geometry", "box_to_center_scale", "box_xywh * input_hw padding=1.25"),
        ("pose.geometry", "crop_from_image", "center_xy scale_wh rotation_deg * crop_hw"),
        (
            "pose.heatmaps",
            "encode_heatmaps",
            "crop_xy visible * input_hw heatmap_hw sigma rounded=True",
        ),
        ("pose.heatmaps", "decode_heatmaps", "heatmaps * method='quarter'"),
        (
            "pose.heatmaps",
            "average_flipped_heatmaps",
            "heatmaps heatmaps_of_mirrored * flip_order shift=True",
        ),
        ("pose.losses", "keypoint_mse_loss", "predicted target weights"),
        ("pose.losses", "keypoint_ohkm_loss", "predicted target weights * topk=8"),
        (
            "metrics.keypoint_metrics",
            "pckh",
            "predicted_xy true_xy visible head_size * threshold=0.5",
        ),
        ("metrics.keypoint_metrics", "coco_oks_metrics", "ground_truth results * sigmas"),
    ],
)
def test_a_public_function_keeps_its_parameters(module, name, parameters):
    actual = describe_parameters(getattr(import_module(f"hrnet_ray.{module}"), name))
    expected = parameters.split()

    assert actual[: len(expected)] == expected
    assert all(added == "*" or "=" in added for added in actual[len(expected) :])  # later ones are optional


@pytest.mark.parametrize("name", ["MPII", "ATRW", "COCO", "Skeleton", "Predictor"])
def test_the_package_exports_a_public_name(name):
    assert getattr(import_module("hrnet_ray"), name) is not None


def test_hrnet_takes_width_and_keypoints():
    parameters = inspect.signature(import_module("hrnet_ray.models").HRNet).parameters

    assert {"width", "keypoints"} <= set(parameters)


def describe_parameters(function):
    names, keyword_only = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            names.append("*")
            keyword_only = True
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        names.append(parameter.name + default)
    return names
