"""Test that untrusted weight files run no code and are read or refused by every loader."""

import hashlib
import json
import os
import random
import re
import resource
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hrnet_ray.cli import main
from hrnet_ray.errors import DataError
from hrnet_ray.inference.model_package import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    load_model,
    save_model,
)
from hrnet_ray.models import HRNet
from hrnet_ray.models.pretrained import load_pretrained
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.training import checkpoint
from hrnet_ray.training.checkpoint import TrainState
from hrnet_ray.training.checkpoint_store import STATE_FILE, CheckpointStore, write_manifest
from tests.hostile_weights import HARMLESS, PAYLOADS
from tests.small_models import make_spec
from tests.training.trainings import Training

MUTATIONS = int(os.environ.get("HRNET_RAY_MUTATIONS", "2000"))
SPEC = make_spec(
    Skeleton(name="otter", keypoints=("left_paw", "right_paw", "nose")),
    width=4,
    stem=4,
    input_hw=(64, 32),
    sigma=1.5,
    decode="argmax",
    flip_test=False,
    shift_heatmap=False,
)


@pytest.fixture(scope="module")
def otter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model folder."""
    folder = tmp_path_factory.mktemp("otter")
    torch.manual_seed(0)
    save_model(folder, SPEC.build_model(), SPEC)
    return folder


@pytest.fixture(scope="module")
def image_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "a.png"
    cv2.imwrite(str(path), np.zeros((20, 20, 3), np.uint8))
    return path


def load_as_pretrained(file: Path, folder: Path, otter: Path, image_path: Path) -> None:
    load_pretrained(SPEC.build_model(), file)


def load_as_safetensors(file: Path, folder: Path, otter: Path, image_path: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(file.read_bytes())
    load_pretrained(SPEC.build_model(), path)


def load_as_model(file: Path, folder: Path, otter: Path, image_path: Path) -> None:
    load_model(write_model_folder(file, folder, otter))


def load_as_checkpoint(file: Path, folder: Path, otter: Path, image_path: Path) -> None:
    (folder / STATE_FILE).write_bytes(file.read_bytes())
    entry = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    write_manifest(folder, {STATE_FILE: entry}, epoch=0, metadata={})
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    checkpoint.load_train_state(folder, model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))


def predict_with_config(file: Path, folder: Path, otter: Path, image_path: Path) -> None:
    predict(write_model_folder(file, folder, otter), image_path)


def predict_without_config(file: Path, folder: Path, otter: Path, image_path: Path) -> None:
    predict(file, image_path)


def export_model(file: Path, folder: Path, otter: Path, image_path: Path) -> None:
    command("export", "--model", str(write_model_folder(file, folder, otter)), "--format", "pt2")


LOADERS = (
    *(load_as_pretrained, load_as_safetensors, load_as_model, load_as_checkpoint),
    *(predict_with_config, predict_without_config, export_model),
)
Loader = Callable[[Path, Path, Path, Path], None]


def predict(model: Path, image_path: Path) -> None:
    command(*("predict", "--model", str(model), "--input", str(image_path), "--out", f"{model}-out"))


def command(*words: str) -> None:
    """Run `hrnet-ray` in this process; exit code 3 raises a DataError."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    if ended.value.code == DataError.exit_code:
        raise DataError("exit code 3", "", "")


def write_model_folder(file: Path, folder: Path, otter: Path) -> Path:
    """Write a model folder with these weights and a config with their SHA-256."""
    config = json.loads((otter / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | {"sha256": sha256(file)}))
    (folder / WEIGHTS_FILE).write_bytes(file.read_bytes())
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_hostile_file_runs_no_code_in_any_loader(
    payload: str, tmp_path: Path, otter: Path, image_path: Path, capsys: pytest.CaptureFixture
):
    file, marker = tmp_path / "weights.pth", tmp_path / "marker"
    PAYLOADS[payload](file, marker)

    for load in LOADERS:
        folder = tmp_path / load.__name__
        folder.mkdir()
        with pytest.raises(DataError) as refused:
            load(file, folder, otter, image_path)
        assert "weights_only" not in str(refused.value)  # torch's hint to disable the check
        assert not marker.exists(), load.__name__
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("payload", sorted(PAYLOADS.keys() - HARMLESS))
def test_the_hostile_files_run_code_without_the_checks(payload: str, tmp_path: Path):
    file, marker = tmp_path / "weights.pth", tmp_path / "marker"
    PAYLOADS[payload](file, marker)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0")
        try:
            torch.load(file, weights_only=False)
        except Exception as error:  # raised after the code ran, or because torch cannot read the file
            print(type(error).__name__)

    assert marker.exists()


def mutate(seed: bytes, rng: random.Random) -> bytes:
    """Return a copy with flipped bits, and parts deleted, repeated or overwritten with sizes."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(600)
        at = min(at, len(data) - 1)
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + 8] = struct.pack("<Q", rng.choice((0, 2**31, 2**40, 2**63, 2**64 - 1)))
        elif kind == 2:
            del data[at : at + rng.randint(1, 200)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randint(1, 200)]
        elif kind == 4:
            data[at : at + 1] = bytes([rng.choice(b'0123456789[]{}",:-eNR.(tbq')])
        else:
            data = data[: max(1, at)]
        if not data:
            break
    return bytes(data) or b"\0"


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _seeds(folder: Path) -> list[Path]:
    model = SPEC.build_model()
    save_file(model.state_dict(), folder / "a.safetensors")
    small = {"model": {"w": torch.ones(3), "v": torch.zeros(2, 2)}, "epoch": 3}
    torch.save(small, folder / "b.pth")
    torch.save(small, folder / "c.pth", _use_new_zipfile_serialization=False)
    torch.save(model.state_dict(), folder / "d.pth")
    return sorted(folder.iterdir())


def test_mutated_files_are_read_or_refused_within_bounded_memory(tmp_path: Path):
    (tmp_path / "seeds").mkdir()
    rng = random.Random(20)
    seeds = [(path.suffix, path.read_bytes()) for path in _seeds(tmp_path / "seeds")]
    largest = max(len(data) for _, data in seeds)
    model, outcomes = SPEC.build_model(), {"read": 0, "refused": 0}
    before = _peak_bytes()

    for number in range(MUTATIONS):
        suffix, data = seeds[number % len(seeds)]
        path = tmp_path / f"mutated{suffix}"
        path.write_bytes(mutate(data, rng))
        try:
            load_pretrained(model, path, allow_partial=True)
            outcomes["read"] += 1
        except DataError:
            outcomes["refused"] += 1

    print(outcomes, f"{(_peak_bytes() - before) / 2**20:.0f} MiB more at the peak")
    assert outcomes["refused"] > MUTATIONS // 3
    assert _peak_bytes() - before < 2 * largest + 200 * 2**20


def test_a_mutated_model_folder_is_refused_even_with_a_matching_checksum(otter: Path, tmp_path: Path):
    rng, seed = random.Random(21), (otter / WEIGHTS_FILE).read_bytes()
    config = json.loads((otter / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text((otter / CONFIG_FILE).read_text())
    for number in range(MUTATIONS // 10):
        (tmp_path / WEIGHTS_FILE).write_bytes(mutate(seed, rng))
        digest = sha256(tmp_path / WEIGHTS_FILE)
        if number % 2:
            (tmp_path / CONFIG_FILE).write_text(json.dumps(config | {"sha256": digest}))
        else:
            (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
        try:
            load_model(tmp_path)
        except DataError:
            continue
        assert number % 2 or digest == config["sha256"]  # only bytes of the weights changed


def test_a_mutated_checkpoint_is_refused_even_with_a_matching_manifest(tmp_path: Path):
    training, rng = Training(seed=0, tiny=True), random.Random(22)
    whole = training.save(CheckpointStore(tmp_path / "ray"), TrainState(epoch=0))
    seed, folder = (whole / STATE_FILE).read_bytes(), tmp_path / "mutated"
    folder.mkdir()
    refused = 0
    for _ in range(MUTATIONS // 5):
        data = mutate(seed, rng)
        (folder / STATE_FILE).write_bytes(data)
        entry = {"bytes": len(data), "sha256": sha256(folder / STATE_FILE)}
        write_manifest(folder, {STATE_FILE: entry}, epoch=0, metadata={})
        try:
            training.load(folder)
        except DataError:
            refused += 1

    print(f"{refused} of {MUTATIONS // 5} refused")
    assert refused > MUTATIONS // 20


def test_a_zip_bomb_is_refused(tmp_path: Path):
    torch.save({"w": torch.zeros(25_000_000)}, tmp_path / "large.pth")
    with (
        zipfile.ZipFile(tmp_path / "large.pth") as large,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in large.namelist():
            bomb.writestr(name, large.read(name))
    assert (tmp_path / "bomb.pth").stat().st_size < 200_000

    with pytest.raises(DataError, match="compressed or overlapping"):
        load_pretrained(SPEC.build_model(), tmp_path / "bomb.pth")


UNSUPPORTED = {
    "sparse": lambda w: w.to_sparse(),
    "complex": lambda w: w.to(torch.complex64),
    "on no device": lambda w: w.to("meta"),
    "quantised": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_a_tensor_of_an_unsupported_kind_is_refused(kind: str, tmp_path: Path):
    state = SPEC.build_model().state_dict()
    torch.save({n: UNSUPPORTED[kind](w) for n, w in state.items() if w.dim() == 4}, tmp_path / "w.pth")

    with pytest.raises(DataError, match=r"holds no weights|cannot be read safely"):
        load_pretrained(SPEC.build_model(), tmp_path / "w.pth")


def test_weights_with_nan_are_refused_by_name(tmp_path: Path):
    model = SPEC.build_model()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["bn1.weight"][0] = float("nan")
    torch.save(state, tmp_path / "diverged.pth")

    with pytest.raises(DataError, match="the weights contain NaN or Inf") as refused:
        load_pretrained(model, tmp_path / "diverged.pth")

    assert refused.value.where == f"{tmp_path / 'diverged.pth'}: bn1.weight"
    assert model.bn1.weight.eq(1).all()


def test_safetensors_with_another_checksum_than_in_their_config_are_refused(otter: Path, tmp_path: Path):
    model = SPEC.build_model()
    report = load_pretrained(model, otter)  # a folder is accepted, too
    assert len(report.matched) == len(model.state_dict())
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        (tmp_path / name).write_bytes((otter / name).read_bytes())
    with (tmp_path / WEIGHTS_FILE).open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x01")

    for path in (tmp_path, tmp_path / WEIGHTS_FILE):
        with pytest.raises(DataError, match=r"sha256 differs from that in the config\.json"):
            load_pretrained(model, path)


HOSTILE_CONFIGS = [
    {"width": 10**9},
    {"width": 2048},
    {"blocks": 99, "modules": [99, 99, 99]},
    {"blocks": True},
    {"modules": [1, 1]},
    {"modules": [1, 1, 10**30]},
    {"stem": 4096},
    {"stem": "4"},
    {"input_hw": [10**6, 10**6]},
    {"input_hw": [65, 32]},
    {"input_hw": [64]},
    {"padding": float("inf")},
    {"padding": float("nan")},
    {"sigma": "wide"},
    {"decode": "__import__('os')"},
    {"flip_test": "no"},
    {"scores": {"OKS_AP": "<script>"}},
    {"scores": ["a"]},
    {"trained_on": ["a"]},
    {"__class__": "os.system"},
]


@pytest.mark.parametrize("changed", HOSTILE_CONFIGS, ids=json.dumps)
def test_a_config_out_of_bounds_is_refused_before_the_model_is_built(
    changed: dict, otter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    built: list[int] = []
    monkeypatch.setattr(HRNet, "__init__", lambda *a, **k: built.append(1))
    config = json.loads((otter / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | changed))
    (tmp_path / WEIGHTS_FILE).write_bytes((otter / WEIGHTS_FILE).read_bytes())

    with pytest.raises(DataError, match="a model that cannot be loaded"):
        load_model(tmp_path)

    assert built == []


@pytest.mark.parametrize("content", [b"[" * 10**5, b" " * 2**21, b"1e999", b'{"a": 1' + b"0" * 9999])
def test_a_malicious_config_is_refused(content: bytes, otter: Path, tmp_path: Path):
    (tmp_path / CONFIG_FILE).write_bytes(content)
    (tmp_path / WEIGHTS_FILE).write_bytes((otter / WEIGHTS_FILE).read_bytes())

    with pytest.raises(DataError, match="a model that cannot be loaded"):
        load_model(tmp_path)


FORBIDDEN = re.compile(
    r"weights_only\s*=\s*False|allow_pickle\s*=\s*True|pickle\.loads?\(|Unpickler\(|"
    r"(?<![\w.])(?:eval|exec)\(|yaml\.(?:load|unsafe_load|full_load)\(|"
    r"joblib(?! import cpu_count$)|"  # joblib.load runs code; cpu_count loads nothing
    r"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
)


def test_the_source_has_no_call_that_runs_code_of_a_file(root: Path):
    forbidden_lines = [
        f"{path}:{number}"
        for path in sorted((root / "hrnet_ray").rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    unsafe_loads = [
        path.name
        for path in (root / "hrnet_ray").rglob("*.py")
        if re.search(r"torch\.load\((?![^)]*weights_only=True)", path.read_text(encoding="utf-8"))
    ]

    assert forbidden_lines == unsafe_loads == []
