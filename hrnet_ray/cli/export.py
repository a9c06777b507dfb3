"""`hrnet-ray export`: write a model as one ONNX or pt2 file."""

import tempfile
import time
from dataclasses import dataclass, replace
from errno import EISDIR
from pathlib import Path
from typing import Literal

from hrnet_ray.cli.model_resolution import ModelArgs, ResolvedModel, resolve_model
from hrnet_ray.data.annotations import ensure_dir
from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.inference.model_export import ExportParity, export_model
from hrnet_ray.inference.model_package import WEIGHTS_FILE, ModelSpec
from hrnet_ray.metrics.predictions import KEYPOINT_SCORE_THRESHOLD
from hrnet_ray.text import escape_control_chars
from hrnet_ray.utils.files import sha256_file, write_bytes_atomically


@dataclass(frozen=True, kw_only=True)
class ExportArgs(ModelArgs):
    """Write a model as one file that runs without this package; ONNX runs without torch, too.

    The input is RGB crops, uint8 [B, H, W, 3]. The outputs are keypoints [B, K, 3] (x, y in pixels
    of the crop, score) and heatmaps. The file includes normalization, flip test and decoding.
    """

    format: Literal["onnx", "pt2"] = "onnx"
    """File format: onnx for ONNX Runtime, pt2 for torch.export.load."""
    out: Path | None = None
    """File or folder to write; by default model.onnx or model.pt2 beside the model, or in the
    current folder for a model from MLflow."""
    decode: Literal["argmax", "quarter", "dark"] | None = None
    """Decoding of the heatmaps; by default that of the model's config."""
    flip_test: bool | None = None
    """Average with the flipped crop, in twice the time; by default as in the model's config."""


def run(args: ExportArgs) -> int:
    """Export the model, verify the parity of its outputs, and write the file."""
    with tempfile.TemporaryDirectory(prefix="hrnet-ray-") as scratch:
        loaded = resolve_model(args.model, "--model", args, download_dir=Path(scratch))
        weights = loaded.path / WEIGHTS_FILE if loaded.path.is_dir() else loaded.path
        origin = {"sha256": sha256_file(weights)}  # identifies the model that the file is made of
    out = _resolve_output_path(args, loaded)
    spec = _apply_decode_flags(loaded.spec, args)
    height, width = spec.input_hw
    print(f"HRNet-W{spec.width}, {len(spec.skeleton)} keypoints, crops of {width} x {height}")
    start_s = time.monotonic()
    exported = export_model(loaded.model, spec, args.format, extra_entries=origin)
    _require_parity(exported.parity, args.format)
    _write_output(out, exported.content)
    megabytes, seconds = len(exported.content) / 1e6, time.monotonic() - start_s
    print(f"{escape_control_chars(str(out))}: {megabytes:,.1f} MB in {seconds:.0f} s")
    return 0


def _apply_decode_flags(spec: ModelSpec, args: ExportArgs) -> ModelSpec:
    """Override decoding and flip test; a change drops the scores, which no longer apply."""
    flip_test = spec.flip_test if args.flip_test is None else args.flip_test
    changed = replace(spec, decode=args.decode or spec.decode, flip_test=flip_test)
    return changed if changed == spec else replace(changed, scores={})


def _resolve_output_path(args: ExportArgs, resolved_model: ResolvedModel) -> Path:
    """Return the file to write, after testing that its folder can be written.

    Raises:
        UsageError: the file has the suffix of another format.
        DataError: the folder cannot be created or written.
    """
    suffix = f".{args.format}"
    default_name = f"model{suffix}"
    model_path = resolved_model.path
    if args.out:
        out = args.out / default_name if args.out.is_dir() else args.out
    elif resolved_model.run_id or resolved_model.version:
        out = Path(default_name)
    else:
        out = model_path / default_name if model_path.is_dir() else model_path.with_suffix(suffix)
    out = out.resolve()  # a link stays a link: its target is written
    if out.suffix != suffix:
        raise UsageError(
            f"--out must end in {suffix}, got {out.suffix or 'no suffix'}",
            f"--out {args.out}",
            f"give an existing folder, or a file that ends in {suffix}",
        )
    ensure_dir(out.parent, "--out")
    _write_output(out, None)
    return out


def _write_output(out: Path, content: bytes | None) -> None:
    """Write the file atomically; without content, only test that its folder is writable.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    try:
        if out.is_dir():
            raise IsADirectoryError(EISDIR, "is a folder", str(out))
        if content is None:
            tempfile.TemporaryFile(dir=out.parent).close()
        else:
            write_bytes_atomically(out, content)
    except OSError as error:
        raise DataError(
            "the exported file cannot be written",
            f"--out {out}: {error.strerror}",
            "give another --out, in a writable folder with free space",
        ) from error


def _require_parity(parity: ExportParity, export_format: str) -> None:
    """Print how much the outputs of the exported file differ from the model's.

    Raises:
        DataError: the difference exceeds the tolerance.
    """
    num_points = parity.num_confident_keypoints
    keypoints = f"no keypoint score above {KEYPOINT_SCORE_THRESHOLD}"
    if num_points:
        error_px = f"keypoints differ by at most {parity.max_keypoint_error_px:.2g} px"
        keypoints = f"{error_px} ({num_points:,} with a score above {KEYPOINT_SCORE_THRESHOLD})"
    heatmaps = f"heatmaps differ from the model's by at most {parity.max_heatmap_error:.2g}"
    summary = f"{heatmaps} (maximum {parity.max_heatmap_value:.2g}), {keypoints}"
    if not parity.is_within_tolerance:
        raise DataError(
            "the exported file must compute the same outputs as the model",
            f"--format {export_format}: {summary}",
            "no file was written; try --format pt2 or --decode quarter, and please report this",
        )
    print(summary)
