"""`hrnet-ray export`."""

import secrets
import tempfile
import time
from dataclasses import dataclass, replace
from errno import EISDIR
from pathlib import Path
from typing import Literal

from hrnet_ray.cli.model_resolution import MlflowStoreArgs, ResolvedModel, resolve_model
from hrnet_ray.data.annotations import ensure_dir
from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.inference.model_export import ExportParity, export_model
from hrnet_ray.inference.model_package import WEIGHTS_FILE, ModelSpec, compute_file_sha256
from hrnet_ray.metrics.predictions import KEYPOINT_SCORE_THRESHOLD
from hrnet_ray.text import escape_control_chars


@dataclass(frozen=True, kw_only=True)
class ExportArgs:
    """Write a model as one file that needs neither this package nor, as ONNX, torch.

    It takes RGB crops as they are cut, uint8 [B, H, W, 3], and gives keypoints [B, K, 3] (x, y in
    pixels of the crop, score) and heatmaps: normalising, flip test and decoding are inside.
    """

    model: str
    """A model folder, a run's folder, weights beside their config.json, the id of an MLflow run, or
    models:/NAME@champion."""
    format: Literal["onnx", "pt2"] = "onnx"
    """ONNX for onnxruntime and what reads it; pt2 for torch.export.load."""
    out: Path | None = None
    """File to write; by default model.onnx or model.pt2 beside the model, or in this folder for a
    model from MLflow."""
    decode: Literal["argmax", "quarter", "dark"] | None = None
    """How points are read from heatmaps; by default as the model's config says."""
    flip_test: bool | None = None
    """Look at each crop's mirror image as well: twice the time; by default as the config says."""
    tracking_uri: str | None = None
    """MLflow server of a model that is named by MLflow; without one, the file in `storage`."""
    storage_path: Path = Path("runs")
    """Folder of the trainings, which has the MLflow file."""


def run(args: ExportArgs) -> int:
    """Write the file, once it was seen to answer as the model does."""
    with tempfile.TemporaryDirectory(prefix="hrnet-ray-") as scratch:
        store = MlflowStoreArgs(args.tracking_uri, args.storage_path)
        loaded = resolve_model(args.model, "--model", store, download_dir=Path(scratch))
        weights = loaded.path / WEIGHTS_FILE if loaded.path.is_dir() else loaded.path
        about = {
            "sha256": compute_file_sha256(weights)
        }  # by which the file leads back to its model
    out = _resolve_output_path(args, loaded)
    spec = _apply_decode_flags(loaded.spec, args)
    height, width = spec.input_hw
    print(f"HRNet-W{spec.width}, {len(spec.skeleton)} keypoints, crops of {width} x {height}")
    began = time.monotonic()
    exported = export_model(loaded.model, spec, args.format, extra_entries=about)
    _require_parity(exported.parity, args.format)
    _write_atomically(out, exported.content)
    megabytes = len(exported.content) / 1e6
    print(
        f"{escape_control_chars(str(out))}: {megabytes:,.1f} MB in {time.monotonic() - began:.0f} s"
    )
    return 0


def _apply_decode_flags(spec: ModelSpec, args: ExportArgs) -> ModelSpec:
    """With scores only where they are of this very way to read the heatmaps."""
    flip_test = spec.flip_test if args.flip_test is None else args.flip_test
    asked = replace(spec, decode=args.decode or spec.decode, flip_test=flip_test)
    return asked if asked == spec else replace(asked, scores={})


def _resolve_output_path(args: ExportArgs, resolved_model: ResolvedModel) -> Path:
    """The file to write, in a folder that is there and can be written.

    Raises:
        UsageError: its name says that it is something else.
        DataError: the folder cannot be made or written.
    """
    ending = f".{args.format}"
    default = f"model{ending}"
    if args.out is None:
        beside = (
            resolved_model.path / default
            if resolved_model.path.is_dir()
            else resolved_model.path.with_suffix(ending)
        )
        out = Path(default) if resolved_model.run_id or resolved_model.version else beside
    else:
        out = args.out / default if args.out.is_dir() else args.out
    out = out.resolve()  # where it leads, not the link
    if out.suffix != ending:
        raise UsageError(
            f"a file of another kind than {args.format}",
            f"--out {args.out}",
            f"give a folder that is there, or a file that ends in {ending}",
        )
    ensure_dir(out.parent, "--out")
    _write_atomically(out, b"", commit=False)
    return out


def _write_atomically(out: Path, content: bytes, *, commit: bool = True) -> None:
    """Whole or not at all; without `keep`, only to see that it can be done.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        try:
            part.write_bytes(content)
            if out.is_dir():
                raise IsADirectoryError(EISDIR, "is a folder", str(out))
            if commit:
                part.replace(out)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            "a file that cannot be written",
            f"--out {out}: {error.strerror}",
            "give another --out, in a folder with room that can be written",
        ) from error


def _require_parity(parity: ExportParity, export_format: str) -> None:
    """Tell how close what was written is to the model.

    Raises:
        DataError: it is another function.
    """
    points = (
        f"points by {parity.max_keypoint_error_px:.2g} px ({parity.num_confident_keypoints:,} above {KEYPOINT_SCORE_THRESHOLD})"
        if parity.num_confident_keypoints
        else f"and no point of the crops is above {KEYPOINT_SCORE_THRESHOLD}"
    )
    heatmaps = f"heatmaps differ from the model's by {parity.max_heatmap_error:.2g} at most"
    said = f"{heatmaps} (they reach {parity.max_heatmap_value:.2g}), {points}"
    if not parity.is_within_tolerance:
        raise DataError(
            "what was written answers otherwise than the model",
            f"--format {export_format}: {said}",
            "nothing was kept; try --format pt2 or --decode quarter, and please report it",
        )
    print(said)
