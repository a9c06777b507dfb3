"""`hrnet-ray export`."""

import secrets
import tempfile
import time
from dataclasses import dataclass, replace
from errno import EISDIR
from pathlib import Path
from typing import Literal

from hrnet_ray.cli.model_resolution import Loaded, Store, load
from hrnet_ray.data.annotations import make_folder
from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.inference.model_export import Agreement, export_model
from hrnet_ray.inference.model_package import WEIGHTS, ModelSpec, sha256_of
from hrnet_ray.metrics.predictions import CONFIDENT
from hrnet_ray.text import printable


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write a model as one file that needs neither this package nor, as ONNX, torch.

    It takes RGB crops as they are cut, uint8 [B, H, W, 3], and gives keypoints [B, K, 3] (x, y in
    pixels of the crop, score) and heatmaps: normalising, flip test and decoding are inside.
    """

    model: str
    """A model folder, a run's folder, weights beside their config.json, the id of an MLflow run, or
    models:/NAME@champion."""
    to: Literal["onnx", "pt2"] = "onnx"
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
    storage: Path = Path("runs")
    """Folder of the trainings, which has the MLflow file."""


def run(args: Args) -> int:
    """Write the file, once it was seen to answer as the model does."""
    with tempfile.TemporaryDirectory(prefix="hrnet-ray-") as scratch:
        store = Store(args.tracking_uri, args.storage)
        loaded = load(args.model, "--model", store, into=Path(scratch))
        weights = loaded.path / WEIGHTS if loaded.path.is_dir() else loaded.path
        about = {"sha256": sha256_of(weights)}  # by which the file leads back to its model
    out = _target(args, loaded)
    spec = _as_asked(loaded.spec, args)
    height, width = spec.input_hw
    print(f"HRNet-W{spec.width}, {len(spec.skeleton)} keypoints, crops of {width} x {height}")
    began = time.monotonic()
    exported = export_model(loaded.model, spec, args.to, about=about)
    _require_close(exported.agreement, args.to)
    _write(out, exported.content)
    megabytes = len(exported.content) / 1e6
    print(f"{printable(str(out))}: {megabytes:,.1f} MB in {time.monotonic() - began:.0f} s")
    return 0


def _as_asked(spec: ModelSpec, args: Args) -> ModelSpec:
    """With scores only where they are of this very way to read the heatmaps."""
    flip_test = spec.flip_test if args.flip_test is None else args.flip_test
    asked = replace(spec, decode=args.decode or spec.decode, flip_test=flip_test)
    return asked if asked == spec else replace(asked, scores={})


def _target(args: Args, loaded: Loaded) -> Path:
    """The file to write, in a folder that is there and can be written.

    Raises:
        UsageError: its name says that it is something else.
        DataError: the folder cannot be made or written.
    """
    ending = f".{args.to}"
    default = f"model{ending}"
    if args.out is None:
        beside = loaded.path / default if loaded.path.is_dir() else loaded.path.with_suffix(ending)
        out = Path(default) if loaded.run_id or loaded.version else beside
    else:
        out = args.out / default if args.out.is_dir() else args.out
    out = out.resolve()  # where it leads, not the link
    if out.suffix != ending:
        raise UsageError(
            f"a file of another kind than {args.to}",
            f"--out {args.out}",
            f"give a folder that is there, or a file that ends in {ending}",
        )
    make_folder(out.parent, "--out")
    _write(out, b"", keep=False)
    return out


def _write(out: Path, content: bytes, *, keep: bool = True) -> None:
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
            if keep:
                part.replace(out)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            "a file that cannot be written",
            f"--out {out}: {error.strerror}",
            "give another --out, in a folder with room that can be written",
        ) from error


def _require_close(agreement: Agreement, form: str) -> None:
    """Tell how close what was written is to the model.

    Raises:
        DataError: it is another function.
    """
    points = (
        f"points by {agreement.points_px:.2g} px ({agreement.sure:,} above {CONFIDENT})"
        if agreement.sure
        else f"and no point of the crops is above {CONFIDENT}"
    )
    heatmaps = f"heatmaps differ from the model's by {agreement.heatmaps:.2g} at most"
    said = f"{heatmaps} (they reach {agreement.height:.2g}), {points}"
    if not agreement.close:
        raise DataError(
            "what was written answers otherwise than the model",
            f"--to {form}: {said}",
            "nothing was kept; try --to pt2 or --decode quarter, and please report it",
        )
    print(said)
