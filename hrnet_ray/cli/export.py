"""`hrnet-ray export`."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hrnet_ray.cli.models import Loaded, Store, load
from hrnet_ray.data.labels import make_folder
from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.inference.export import Agreement, export_model
from hrnet_ray.inference.model_folder import replace_files
from hrnet_ray.learning.scores import CONFIDENT
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
    loaded = load(args.model, "--model", Store(args.tracking_uri, args.storage))
    out = _target(args, loaded)
    spec = replace(
        loaded.spec,
        decode=args.decode or loaded.spec.decode,
        flip_test=loaded.spec.flip_test if args.flip_test is None else args.flip_test,
    )
    height, width = spec.input_hw
    print(f"HRNet-W{spec.width}, {len(spec.skeleton)} keypoints, crops of {width} x {height}")
    began = time.monotonic()
    exported = export_model(loaded.model, spec, args.to)
    _require_close(exported.agreement, args.to)
    replace_files(out.parent, {out.name: exported.content})
    megabytes = len(exported.content) / 1e6
    print(f"{printable(str(out))}: {megabytes:,.1f} MB in {time.monotonic() - began:.0f} s")
    return 0


def _target(args: Args, loaded: Loaded) -> Path:
    """The file to write, in a folder that is there.

    Raises:
        UsageError: its name says that it is something else.
        DataError: the folder cannot be made.
    """
    default = f"model.{args.to}"
    if args.out is None:
        beside = loaded.path if loaded.path.is_dir() else loaded.path.parent
        return Path(default) if loaded.run_id or loaded.version else beside / default
    out = args.out / default if args.out.is_dir() else args.out
    if out.suffix != f".{args.to}":
        raise UsageError(
            f"a file of another kind than {args.to}",
            f"--out {args.out}",
            f"give a folder that is there, or a file that ends in .{args.to}",
        )
    make_folder(out.parent, "--out")
    return out


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
