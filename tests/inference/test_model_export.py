"""Exported models give the predictions of the model, without torch and without this package."""

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
from tests.inference.paws import SPEC, make_paws_model, make_test_image

ROOT = Path(__file__).resolve().parents[2]
BLOCK_IMPORTS = """
import sys
for name in ("torch", "hrnet_ray", "mlflow", "ray"):
    sys.modules[name] = None
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    spec = replace(SPEC, scores={"OKS_AP": 0.5})
    save_model(tmp_path / "run" / "model", make_paws_model(), spec)
    return tmp_path / "run"


def test_the_code_in_the_docs_gives_the_predictions_of_predict(folder: Path, tmp_path: Path, capsys):
    assert run(ExportArgs(model=str(folder))) == 0

    model = folder / "model" / "model.onnx"
    stdout = capsys.readouterr().out
    assert re.search(r"HRNet-W8, 3 keypoints, crops of 64 x 96\n", stdout)
    assert re.search(r"differ from the model's by at most \S+ .* keypoints differ by at most \S+ px \(\d+ with", stdout)
    assert re.search(rf"^{re.escape(str(model))}: \S+ MB in \d+ s$", stdout, re.M)
    model.rename(tmp_path / "model.onnx")
    cv2.imwrite(str(tmp_path / "tiger.png"), make_test_image()[..., ::-1])
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.S)
    code = code.replace("tiger.jpg", "tiger.png").replace("20, 10, 300, 220", "20, 10, 90, 70")

    result = subprocess.run([sys.executable, "-c", BLOCK_IMPORTS + code], cwd=tmp_path, capture_output=True, text=True)

    assert result.returncode == 0, result.stderr
    expected = Predictor(*load_model(folder / "model"))(make_test_image(), np.array([[20.0, 10, 90, 70]]))
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [name for name, *_ in rows] == list(SPEC.skeleton.keypoints)
    values = np.array([numbers for _, *numbers in rows], np.float64)
    np.testing.assert_allclose(values[:, :2], expected.image_xy[0].numpy(), atol=0.06)  # as printed
    np.testing.assert_allclose(values[:, 2], expected.scores[0].numpy(), atol=0.006)


@pytest.mark.parametrize("form", EXPORT_FORMATS)
@pytest.mark.parametrize(("decode", "flip_test"), [("dark", True), ("argmax", False)])
def test_an_exported_file_gives_the_outputs_of_the_model(form: str, decode: str, flip_test: bool):
    exported = export_model(make_paws_model(), replace(SPEC, decode=decode, flip_test=flip_test), form)

    assert exported.parity.is_within_tolerance
    assert exported.parity.num_confident_keypoints > 0
    assert exported.parity.max_heatmap_value > 0.5
    for part in list_file_parts(exported.content):
        assert b"exported.py" not in part  # torch stores source locations


def list_file_parts(content: bytes) -> list[bytes]:
    """Return the members of a zip archive (pt2), or the content itself."""
    if not content.startswith(b"PK"):
        return [content]
    with ZipFile(io.BytesIO(content)) as archive:
        return [archive.read(name) for name in archive.namelist()]


def test_a_pt2_file_contains_its_config(folder: Path, tmp_path: Path):
    assert run(ExportArgs(model=str(folder), format="pt2", out=tmp_path, decode="argmax")) == 0

    config = {"config.json": ""}
    module = torch.export.load(tmp_path / "model.pt2", extra_files=config).module()
    entries = json.loads(config["config.json"])
    assert entries["decode"] == "argmax"
    assert entries["scores"] == {}  # scores hold for the model's own decoding only
    assert entries["sha256"] == sha256_file(folder / "model" / "model.safetensors")
    assert from_dict(entries["skeleton"], where="") == SPEC.skeleton
    keypoints, heatmaps = module(torch.zeros(4, 96, 64, 3, dtype=torch.uint8))
    assert keypoints.shape == (4, 3, 3)
    assert heatmaps.shape == (4, 3, 24, 16)


def test_an_export_with_other_outputs_is_refused(monkeypatch: pytest.MonkeyPatch, folder: Path):
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
    ("parity", "is_close"),
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
        ),  # empty heatmaps
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
def test_export_parity_tolerates_rounding_only(parity: ExportParity, is_close: bool):
    assert parity.is_within_tolerance == is_close


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it were not installed

    with pytest.raises(UsageError) as refused:
        run(ExportArgs(model=str(folder)))

    assert "onnxscript" in refused.value.where
    assert "hrnet-ray[export]" in refused.value.fix


def test_an_output_path_that_is_a_folder_is_refused_before_exporting(folder: Path, tmp_path: Path):
    (tmp_path / "out" / "model.onnx").mkdir(parents=True)

    with pytest.raises(DataError) as refused:
        run(ExportArgs(model=str(folder), out=tmp_path / "out"))

    assert refused.value.where == f"--out {tmp_path / 'out' / 'model.onnx'}: is a folder"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]


def test_exporting_to_a_symlink_writes_its_target(folder: Path, tmp_path: Path):
    (tmp_path / "link.pt2").symlink_to(tmp_path / "real.pt2")

    assert run(ExportArgs(model=str(folder), format="pt2", out=tmp_path / "link.pt2")) == 0

    assert (tmp_path / "link.pt2").is_symlink()
    assert (tmp_path / "real.pt2").stat().st_size > 1000


def test_an_output_path_with_another_suffix_is_refused(folder: Path):
    weights = folder / "model" / "model.safetensors"

    with pytest.raises(UsageError, match=r"must end in \.onnx"):
        run(ExportArgs(model=str(folder), out=weights))
