"""Pretrained weights of all supported sources load, and tensors that do not match are named."""

import datetime
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hrnet_ray.errors import DataError
from hrnet_ray.models import HRNet
from hrnet_ray.models.pretrained import LoadReport, load_pretrained
from tests.small_models import make_small_hrnet

HEAD = ["final_layer.weight", "final_layer.bias"]


def _mmpose(head: str) -> Any:
    def rename(name: str) -> str:
        return f"{head}.{name}" if name in HEAD else f"backbone.{name}"

    return rename


WRITERS = {
    "plain": lambda weights: weights,
    "published checkpoint.pth": lambda weights: {
        "epoch": 210,
        "model": "pose_hrnet",
        "state_dict": {f"module.{name}": tensor for name, tensor in weights.items()},
        "best_state_dict": weights,
        "perf": np.float64(90.3),
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float32(1e-5)}]},
    },
    "mmpose 0.x": lambda weights: {
        "meta": {"mmpose_version": "0.29.0"},
        "state_dict": {_mmpose("keypoint_head")(name): w for name, w in weights.items()},
    },
    "mmpose 1.x": lambda weights: {
        "state_dict": OrderedDict((_mmpose("head")(name), w) for name, w in weights.items())
    },
    "under model": lambda weights: {"model": weights, "epoch": 3},
    "Lightning": lambda weights: {
        "pytorch-lightning_version": "2.4.0",
        "loops": {"fit_loop": {"state_dict": {}}},
        "state_dict": {f"model.{name}": tensor for name, tensor in weights.items()},
    },
    "our own checkpoint": lambda weights: {
        "model": weights,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": []},
        "scheduler": {"last_epoch": 7},
        "progress": {"epoch": 1, "best": float("-inf"), "best_epoch": -1},
        "also": {},
    },
    "compiled under DDP": lambda weights: {f"module._orig_mod.{k}": w for k, w in weights.items()},
}


@pytest.mark.parametrize("writer", WRITERS)
def test_files_of_all_supported_sources_load_completely(writer: str, tmp_path: Path):
    source, model = _make_model(seed=1), _make_model(seed=2)
    torch.save(WRITERS[writer](source.state_dict()), tmp_path / "weights.pth")

    report = load_pretrained(model, tmp_path / "weights.pth")

    assert report.matched == list(model.state_dict())
    assert report.missing == report.unexpected == report.mismatched == []
    assert _have_equal_weights(model, source)


def test_safetensors_load_completely(tmp_path: Path):
    source, model = _make_model(seed=1), _make_model(seed=2)
    save_file(source.state_dict(), tmp_path / "model.safetensors")

    report = load_pretrained(model, str(tmp_path / "model.safetensors"))

    assert len(report.matched) == len(model.state_dict())
    assert _have_equal_weights(model, source)


def test_a_file_in_the_legacy_format_loads(tmp_path: Path):
    source, model = _make_model(seed=1), _make_model(seed=2)
    content = {"state_dict": source.state_dict(), "perf": np.float64(0.9)}
    torch.save(content, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)

    load_pretrained(model, tmp_path / "old.pth.tar")

    assert _have_equal_weights(model, source)


def test_a_scalar_pickled_by_numpy_1_loads(tmp_path: Path):
    source, model = _make_model(seed=1), _make_model(seed=2)
    content = {"state_dict": source.state_dict(), "perf": np.float64(0.9)}
    torch.save(content, tmp_path / "new.pth", _use_new_zipfile_serialization=False)
    renamed = (tmp_path / "new.pth").read_bytes()
    renamed = renamed.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "old.pth").write_bytes(renamed)

    load_pretrained(model, tmp_path / "old.pth")

    assert b"numpy.core.multiarray" in renamed
    assert _have_equal_weights(model, source)


CLASSIFIERS = {
    "published ImageNet": lambda body, rest: body | rest,
    "timm": lambda body, rest: body | rest,  # it kept the published names
    "mmpretrain": lambda body, rest: {
        "meta": {},
        "state_dict": {f"backbone.{name}": w for name, w in (body | rest).items()},
    },
}


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("writer", CLASSIFIERS)
def test_an_imagenet_classifier_loads_everything_but_the_head(writer: str, ending: str, tmp_path: Path):
    source, model = _make_model(seed=1), _make_model(seed=2)
    leftovers = {
        "incre_modules.0.0.conv1.weight": torch.zeros(2, 2, 1, 1),
        "downsamp_modules.0.0.weight": torch.zeros(2, 2, 3, 3),
        "final_layer.0.weight": torch.zeros(2, 2, 1, 1),
        "classifier.weight": torch.zeros(1000, 2),
        "stage4.2.fuse_layers.1.0.0.0.weight": torch.zeros(2, 2, 3, 3),
    }
    body = {name: w for name, w in source.state_dict().items() if name not in HEAD}
    content = CLASSIFIERS[writer](body, leftovers)
    path = tmp_path / f"imagenet.{ending}"
    if ending == "pth":
        torch.save(content, path)
    else:
        save_file(content.get("state_dict", content), path)
    head_before = model.final_layer.weight.clone()

    report = load_pretrained(model, path)

    assert report.matched == list(body)
    assert report.missing == HEAD
    assert sorted(report.unexpected) == sorted(leftovers)
    assert torch.equal(model.final_layer.weight, head_before)
    assert torch.equal(model.conv1.weight, source.conv1.weight)


@pytest.mark.parametrize(("fraction", "is_accepted"), [(0.89, False), (0.92, True)])
def test_fewer_than_90_percent_matching_tensors_are_refused(fraction: float, is_accepted: bool, tmp_path: Path):
    source, model = _make_model(seed=1), _make_model(seed=2)
    state = source.state_dict()
    body = [n for n in state if n not in HEAD and not n.endswith("num_batches_tracked")]
    saved_names = body[: round(fraction * len(body))]
    torch.save({name: state[name] for name in saved_names}, tmp_path / "part.pth")

    if is_accepted:
        assert load_pretrained(model, tmp_path / "part.pth").matched == saved_names
    else:
        with pytest.raises(DataError, match=f"match only {len(saved_names):,} of the {len(body):,} tensors"):
            load_pretrained(model, tmp_path / "part.pth")
        assert load_pretrained(model, tmp_path / "part.pth", allow_partial=True).matched == saved_names


def test_tensors_without_string_names_are_refused(tmp_path: Path):
    torch.save({0: torch.zeros(2), (1, 2): torch.zeros(2)}, tmp_path / "numbered.pth")

    with pytest.raises(DataError, match="the file holds no weights"):
        load_pretrained(_make_model(seed=1), tmp_path / "numbered.pth")


def test_another_number_of_keypoints_initializes_the_head_and_is_reported(tmp_path: Path):
    source, model = _make_model(seed=1, keypoints=17), _make_model(seed=2, keypoints=5)
    torch.save(source.state_dict(), tmp_path / "coco.pth")

    report = load_pretrained(model, tmp_path / "coco.pth")

    assert report.mismatched == HEAD
    assert model.final_layer.bias is not None
    assert model.final_layer.bias.eq(0).all()
    assert 0 < model.final_layer.weight.std() < 0.01  # the old weights have a standard deviation of about 29
    assert str(report) == (
        f"{tmp_path}/coco.pth: {len(report.matched):,} of {len(report.matched) + 2:,} tensors "
        "loaded; 2 (final_layer.weight, final_layer.bias) of another shape, head initialized"
    )


def test_another_width_is_refused_and_the_model_is_unchanged(tmp_path: Path):
    wider, model = _make_model(seed=1, width=16), _make_model(seed=2)
    torch.save(wider.state_dict(), tmp_path / "w16.pth")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    with pytest.raises(DataError) as refused:
        load_pretrained(model, tmp_path / "w16.pth")

    assert "match only" in refused.value.what
    assert refused.value.where.startswith(f"{tmp_path}/w16.pth: transition1.0.0.weight is ")
    assert "16 x 64 x 3 x 3, expected 8 x 64 x 3 x 3" in refused.value.where
    assert refused.value.where.count("expected") == 5
    assert "--model.allow-partial-load" in refused.value.fix
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_allow_partial_loads_the_matching_tensors(tmp_path: Path):
    wider, model = _make_model(seed=1, width=16), _make_model(seed=2)
    torch.save(wider.state_dict(), tmp_path / "w16.pth")

    report = load_pretrained(model, tmp_path / "w16.pth", allow_partial=True)

    assert "layer1.0.conv1.weight" in report.matched
    assert "stage4.0.branches.0.0.conv1.weight" in report.mismatched
    assert torch.equal(model.layer1[0].conv1.weight, wider.layer1[0].conv1.weight)


def test_another_architecture_without_shape_differences_is_refused(tmp_path: Path):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")

    with pytest.raises(DataError, match=r"match only 0 of the \d+ tensors") as refused:
        load_pretrained(_make_model(seed=1), tmp_path / "other.pth")

    assert "conv1.weight is missing" in refused.value.where


def test_files_without_batch_counters_load(tmp_path: Path):
    source, model = _make_model(seed=1), _make_model(seed=2)
    old = {k: w for k, w in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")

    report = load_pretrained(model, tmp_path / "old.pth")

    assert report.matched == list(old)
    assert all(name.endswith("num_batches_tracked") for name in report.missing)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="there is no such weight file") as refused:
        load_pretrained(_make_model(seed=1), tmp_path / "gone.pth")

    assert refused.value.where == str(tmp_path / "gone.pth")


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x80\x02garbage", b"PK\x03\x04"])
def test_garbage_is_refused(name: str, content: bytes, tmp_path: Path):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError) as refused:
        load_pretrained(_make_model(seed=1), tmp_path / name)

    assert refused.value.where.startswith(str(tmp_path / name))
    assert ".safetensors" in refused.value.fix


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_truncated_file_is_refused(ending: str, tmp_path: Path):
    path = tmp_path / f"cut.{ending}"
    write = save_file if ending == "safetensors" else torch.save
    write(_make_model(seed=1).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-5000])

    with pytest.raises(DataError, match="cannot be read safely"):
        load_pretrained(_make_model(seed=1), path)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"state_dict": {"lr": 0.1}}])
def test_a_file_without_weights_is_refused(content: Any, tmp_path: Path):
    torch.save(content, tmp_path / "empty.pth")

    with pytest.raises(DataError, match="holds no weights"):
        load_pretrained(_make_model(seed=1), tmp_path / "empty.pth")


class _Trap:
    """Pickled object that creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path):
    trap = {"state_dict": _make_model(seed=1).state_dict(), "meta": _Trap(tmp_path / "sprung")}
    torch.save(trap, tmp_path / "trap.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(trap["meta"], protocol=2))

    for name in ("trap.pth", "raw.pth"):
        with pytest.raises(DataError, match="cannot be read safely"):
            load_pretrained(_make_model(seed=1), tmp_path / name)

    assert not (tmp_path / "sprung").exists()


def test_a_pickled_object_of_another_type_is_refused(tmp_path: Path):
    torch.save({"state_dict": {}, "saved": datetime.date(2020, 1, 1)}, tmp_path / "dated.pth")

    with pytest.raises(DataError, match="cannot be read safely") as refused:
        load_pretrained(_make_model(seed=1), tmp_path / "dated.pth")

    assert "datetime.date" in refused.value.where
    assert "weights_only" not in str(refused.value)  # torch's advice to disable the check


def test_half_precision_files_load_into_a_float32_model(tmp_path: Path):
    source, model = _make_model(seed=1), _make_model(seed=2)
    save_file(source.half().state_dict(), tmp_path / "half.safetensors")

    load_pretrained(model, tmp_path / "half.safetensors")

    assert model.conv1.weight.dtype == torch.float32
    assert torch.equal(model.conv1.weight, source.conv1.weight.float())


def test_the_load_report_counts_missing_and_unexpected_tensors():
    report = LoadReport("w.pth", ["a", "b"], ["c"], ["d", "e", "f"], [])

    assert str(report) == ("w.pth: 2 of 3 tensors loaded; 1 (c) not in the file; 3 (d, e and 1 more) not in the model")


def _make_model(*, seed: int, width: int = 8, keypoints: int = 5) -> HRNet:
    """Make a small model with random tensors, including batch statistics."""
    net = make_small_hrnet(keypoints, width=width, stem=16)
    chance = torch.Generator().manual_seed(seed)
    for tensor in net.state_dict().values():
        noise: Tensor = torch.rand(tensor.shape, generator=chance) * 100
        tensor.copy_(noise)
    return net


def _have_equal_weights(left: HRNet, right: HRNet) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("same", [True, False])
def test_a_file_with_two_sets_of_weights_is_refused(same: bool, tmp_path: Path):
    model = _make_model(seed=0)
    weights = model.state_dict()
    average = {name: weight + (not same) for name, weight in weights.items()}
    both = {f"module.{name}": weight for name, weight in average.items()}
    both |= {f"model.{name}": weight for name, weight in weights.items()}
    torch.save(both, tmp_path / "two.pth")

    if same:
        assert len(load_pretrained(model, tmp_path / "two.pth").matched) == len(weights)
        return
    with pytest.raises(DataError, match="the file holds two sets of weights"):
        load_pretrained(model, tmp_path / "two.pth")
