"""What is exported finds what the model finds, without torch and without this package."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np
import pytest
import torch

from hrnet_ray.cli.export import ExportArgs, run
from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.inference.model_export import EXPORT_FORMATS, ExportParity, export_model
from hrnet_ray.inference.model_package import load_model, save_model
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.skeletons import from_dict
from hrnet_ray.utils.files import sha256_file
from tests.inference.paws import SPEC, blotched_picture, lively_model

ROOT = Path(__file__).resolve().parents[2]
ALONE = """
import sys
for name in ("torch", "hrnet_ray", "mlflow", "ray"):
    sys.modules[name] = None
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    spec = replace(SPEC, scores={"OKS_AP": 0.5})
    save_model(tmp_path / "run" / "model", lively_model(), spec)
    return tmp_path / "run"


def test_the_lines_of_the_docs_find_what_predict_finds(folder: Path, tmp_path: Path, capsys):
    assert run(ExportArgs(model=str(folder))) == 0

    model = folder / "model" / "model.onnx"
    said = capsys.readouterr().out
    assert re.search(r"HRNet-W8, 3 keypoints, crops of 64 x 96\n", said)
    assert re.search(r"differ from the model's by at most \S+ .* keypoints differ by at most \S+ px \(\d+ with", said)
    assert re.search(rf"^{re.escape(str(model))}: \S+ MB in \d+ s$", said, re.M)
    model.rename(tmp_path / "model.onnx")
    cv2.imwrite(str(tmp_path / "tiger.png"), blotched_picture()[..., ::-1])
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.S)
    lines = lines.replace("tiger.jpg", "tiger.png").replace("20, 10, 300, 220", "20, 10, 90, 70")

    found = subprocess.run([sys.executable, "-c", ALONE + lines], cwd=tmp_path, capture_output=True, text=True)

    assert found.returncode == 0, found.stderr
    ours = Predictor(*load_model(folder / "model"))(blotched_picture(), np.array([[20.0, 10, 90, 70]]))
    rows = [line.split() for line in found.stdout.splitlines()]
    assert [name for name, *_ in rows] == list(SPEC.skeleton.keypoints)
    theirs = np.array([numbers for _, *numbers in rows], np.float64)
    np.testing.assert_allclose(theirs[:, :2], ours.image_xy[0].numpy(), atol=0.06)  # as printed
    np.testing.assert_allclose(theirs[:, 2], ours.scores[0].numpy(), atol=0.006)


@pytest.mark.parametrize("form", EXPORT_FORMATS)
@pytest.mark.parametrize(("decode", "flip_test"), [("dark", True), ("argmax", False)])
def test_a_file_answers_as_the_model_does(form: str, decode: str, flip_test: bool):
    exported = export_model(lively_model(), replace(SPEC, decode=decode, flip_test=flip_test), form)

    assert exported.parity.is_within_tolerance
    assert exported.parity.num_confident_keypoints > 0
    assert exported.parity.max_heatmap_value > 0.5
    for part in parts_of(exported.content):
        assert b"exported.py" not in part  # torch notes where each line of the model stands


def parts_of(content: bytes) -> list[bytes]:
    """The members of an archive, as pt2 is one; of anything else, itself."""
    if not content.startswith(b"PK"):
        return [content]
    with ZipFile(io.BytesIO(content)) as archive:
        return [archive.read(name) for name in archive.namelist()]


def test_a_pt2_file_tells_how_it_is_used(folder: Path, tmp_path: Path):
    assert run(ExportArgs(model=str(folder), format="pt2", out=tmp_path, decode="argmax")) == 0

    config = {"config.json": ""}
    module = torch.export.load(tmp_path / "model.pt2", extra_files=config).module()
    entries = json.loads(config["config.json"])
    assert entries["decode"] == "argmax"
    assert entries["scores"] == {}  # those of the model are of its own way to read maps
    assert entries["sha256"] == sha256_file(folder / "model" / "model.safetensors")
    assert from_dict(entries["skeleton"], where="") == SPEC.skeleton
    keypoints, heatmaps = module(torch.zeros(4, 96, 64, 3, dtype=torch.uint8))
    assert keypoints.shape == (4, 3, 3)
    assert heatmaps.shape == (4, 3, 24, 16)


def test_a_file_of_another_model_is_told_from_ours(monkeypatch: pytest.MonkeyPatch, folder: Path):
    torch.manual_seed(1)
    _, load = EXPORT_FORMATS["pt2"]
    other = export_model(SPEC.build_model(), SPEC, "pt2").content
    monkeypatch.setitem(EXPORT_FORMATS, "pt2", (lambda *_: other, load))

    with pytest.raises(DataError, match="must compute the same outputs as the model"):
        run(ExportArgs(model=str(folder), format="pt2"))

    assert sorted(path.name for path in (folder / "model").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize(
    ("agreement", "close"),
    [
        (
            ExportParity(
                max_heatmap_error=1e-6,
                max_heatmap_value=1.0,
                max_keypoint_error_px=1e-5,
                num_confident_keypoints=9,
            ),
            True,
        ),
        (
            ExportParity(
                max_heatmap_error=1e-3,
                max_heatmap_value=200.0,
                max_keypoint_error_px=0.0,
                num_confident_keypoints=9,
            ),
            True,
        ),
        (
            ExportParity(
                max_heatmap_error=2e-4,
                max_heatmap_value=1.0,
                max_keypoint_error_px=0.0,
                num_confident_keypoints=9,
            ),
            False,
        ),
        (
            ExportParity(
                max_heatmap_error=1e-6,
                max_heatmap_value=1e-3,
                max_keypoint_error_px=0.0,
                num_confident_keypoints=0,
            ),
            False,
        ),  # a flat map
        (
            ExportParity(
                max_heatmap_error=0.0,
                max_heatmap_value=1.0,
                max_keypoint_error_px=0.02,
                num_confident_keypoints=9,
            ),
            False,
        ),
        (
            ExportParity(
                max_heatmap_error=float("inf"),
                max_heatmap_value=1.0,
                max_keypoint_error_px=0.0,
                num_confident_keypoints=9,
            ),
            False,
        ),
        (
            ExportParity(
                max_heatmap_error=float("inf"),
                max_heatmap_value=float("inf"),
                max_keypoint_error_px=0.0,
                num_confident_keypoints=0,
            ),
            False,
        ),
    ],
)
def test_rounding_is_no_difference_and_more_is(agreement: ExportParity, close: bool):
    assert agreement.is_within_tolerance == close


def test_a_package_that_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it were not installed

    with pytest.raises(UsageError) as refused:
        run(ExportArgs(model=str(folder)))

    assert "onnxscript" in refused.value.where
    assert "hrnet-ray[export]" in refused.value.fix


def test_where_no_file_can_be_is_said_before_the_work(folder: Path, tmp_path: Path):
    (tmp_path / "out" / "model.onnx").mkdir(parents=True)

    with pytest.raises(DataError) as refused:
        run(ExportArgs(model=str(folder), out=tmp_path / "out"))

    assert refused.value.where == f"--out {tmp_path / 'out' / 'model.onnx'}: is a folder"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]


def test_a_link_leads_to_the_file_that_is_written(folder: Path, tmp_path: Path):
    (tmp_path / "link.pt2").symlink_to(tmp_path / "real.pt2")

    assert run(ExportArgs(model=str(folder), format="pt2", out=tmp_path / "link.pt2")) == 0

    assert (tmp_path / "link.pt2").is_symlink()
    assert (tmp_path / "real.pt2").stat().st_size > 1000


def test_other_files_are_not_written_over(folder: Path):
    weights = folder / "model" / "model.safetensors"

    with pytest.raises(UsageError, match=r"must end in \.onnx"):
        run(ExportArgs(model=str(folder), out=weights))
