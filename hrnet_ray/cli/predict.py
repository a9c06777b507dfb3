"""`hrnet-ray predict`."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hrnet_ray.cli.predicting.boxes import GivenBoxes, read_boxes
from hrnet_ray.cli.models import Store, device_of, load
from hrnet_ray.data import pictures
from hrnet_ray.data.drawing import draw_pose
from hrnet_ray.data.labels import check_file, make_folder
from hrnet_ray.data.storage import open_folder
from hrnet_ray.errors import DataError, UsageError, shortened
from hrnet_ray.inference.predictor import Predictor, whole_picture
from hrnet_ray.learning.loop import Predictions
from hrnet_ray.learning.scores import CONFIDENT, instance_scores
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.text import printable

RESULTS, KEYPOINTS = "predictions.coco.json", "keypoints.json"
CATEGORY = 1


@dataclass(frozen=True, kw_only=True)
class Args:
    """Find keypoints on a picture, or on all pictures of a folder and of those below it.

    Writes predictions.coco.json (COCO results, with file names), keypoints.json (COCO's category
    with their names and bones) and a drawing of each picture. What was found stays when it is
    stopped half-way.
    """

    model: str
    """A model folder, a run's folder, weights beside their config.json, the id of an MLflow run, or
    models:/NAME@champion."""
    pictures: Path
    """A picture or a folder."""
    out: Path = Path("predictions")
    boxes: Path | None = None
    """JSON: {"a.jpg": [[x, y, w, h], ...]}, a COCO annotation file, or COCO detections whose
    image_id is the file's name. Without it a box is the whole picture."""
    draw: bool = True
    """Draw the poses; the drawings lie in `out` as the pictures in their folder."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    strict: bool = False
    """Fail when a picture cannot be read, instead of naming it and going on."""
    tracking_uri: str | None = None
    """MLflow server of a model that is named by MLflow; without one, the file in `storage`."""
    storage: Path = Path("runs")
    """Folder of the trainings, which has the MLflow file."""


@dataclass
class Tally:
    """What came of the pictures so far. They are named from --pictures on: `train/a.jpg`."""

    results: list[dict[str, Any]] = field(default_factory=list)
    read: int = 0
    unread: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    without_boxes: int = 0


def run(args: Args) -> int:
    """Predict every readable picture, in the order of their names."""
    root, names = _pictures(args.pictures, args.out)
    _check_out(args.out, root, names)
    boxes = read_boxes(args.boxes, [root / name for name in names]) if args.boxes else None
    loaded = load(args.model, "--model", Store(args.tracking_uri, args.storage))
    predictor = Predictor(loaded.model, loaded.spec, device=device_of(args.device))
    make_folder(args.out, "--out")
    drawings = _drawing_names(names) if args.draw else {}
    tally = Tally()
    try:
        for name in names:
            picture = _read(root, name, tally)
            if picture is None:
                continue
            found = _found(picture, root / name, boxes, predictor)
            if found is None:
                tally.without_boxes += 1
                continue
            tally.results += _results(*found, name.as_posix(), len(tally.results))
            if name in drawings:
                drawing = _drawn(picture, found[0], predictor.spec.skeleton)
                pictures.write(args.out / drawings[name], drawing)
    finally:  # a full disk or Ctrl-C costs the poses to come, not those that were found
        _write(args.out, tally, predictor.spec.skeleton)
    _tell(args, tally, boxes)
    failed = not tally.results or (tally.unread and args.strict)
    return DataError.exit_code if failed else 0


def _pictures(path: Path, out: Path) -> tuple[Path, list[Path]]:
    """A folder, and the pictures in and below it, named from there.

    Raises:
        DataError: there are none.
    """
    if not path.is_dir():
        check_file(path, "--pictures")
        return path.parent, [Path(path.name)]
    earlier = out.resolve() if (out / RESULTS).is_file() else None  # its drawings are no pictures
    found: list[Path] = []
    for folder, below, files in os.walk(path):
        below[:] = [name for name in below if Path(folder, name).resolve() != earlier]
        found += [Path(folder, name).relative_to(path) for name in files]
    names = sorted(name for name in found if name.suffix.lower() in pictures.PICTURE_ENDINGS)
    if not names:
        raise DataError("a folder without pictures", f"--pictures {path}", "give another one")
    return path, names


def _check_out(out: Path, root: Path, names: Sequence[Path]) -> None:
    folders = {name.parent for name in names}
    if {(root / at).resolve() for at in folders} & {(out / at).resolve() for at in folders}:
        raise UsageError(
            "the drawings would be written over the pictures",
            f"--out {out}",
            "give another folder",
        )


def _drawing_names(names: Sequence[Path]) -> dict[Path, Path]:
    """`a.jpg` for `a.png`, or `a.png.jpg` where there is an `a.jpg` as well."""
    wanted = Counter(form for name in names for form in (name, name.with_suffix("")))
    return {
        name: Path(f"{name.with_suffix('') if wanted[name.with_suffix('')] == 1 else name}.jpg")
        for name in names
    }


def _read(root: Path, name: Path, tally: Tally) -> np.ndarray | None:
    """The picture, or None for one that cannot be read and is told."""
    try:
        picture, turned = pictures.read_and_ask(root / name)
    except DataError as error:
        tally.unread.append(name.as_posix())
        print(f"skipped {printable(name.as_posix())}: {error.what}")
        return None
    tally.read += 1
    if turned:
        tally.turned.append(name.as_posix())
    return picture


def _found(
    picture: np.ndarray, path: Path, boxes: GivenBoxes | None, predictor: Predictor
) -> tuple[Predictions, np.ndarray] | None:
    """A pose in each box and how sure the box is, float64 [N]; None where there is no box."""
    if boxes is None:
        return predictor(picture, whole_picture(picture)), np.ones(1)
    given = boxes.of.get(path)
    return None if given is None else (predictor(picture, given[:, :4]), given[:, 4])


def _results(found: Predictions, sure: np.ndarray, name: str, first: int) -> list[dict[str, Any]]:
    """COCO results; a pose's score is its own times that of its box, as `evaluate` has it."""
    points = np.concatenate([found.image_xy.numpy(), found.scores.numpy()[..., None]], axis=-1)
    return [
        {
            "image_id": name,
            "category_id": CATEGORY,
            "id": first + at + 1,
            "keypoints": [round(float(value), 3) for value in points[at].ravel()],
            "score": float(score) * float(sure[at]),
        }
        for at, score in enumerate(instance_scores(found))
    ]


def _drawn(picture: np.ndarray, found: Predictions, skeleton: Skeleton) -> np.ndarray:
    thickness = max(1, round(max(picture.shape[:2]) / 320))
    for xy, scores in zip(found.image_xy.numpy(), found.scores.numpy(), strict=True):
        picture = draw_pose(picture, xy, scores > CONFIDENT, skeleton, thickness=thickness)
    return picture


def _write(out: Path, tally: Tally, skeleton: Skeleton) -> None:
    folder = open_folder(out, "--out")
    folder.write_bytes(RESULTS, json.dumps(tally.results).encode())
    folder.write_bytes(KEYPOINTS, json.dumps({"categories": [_category(skeleton)]}).encode())
    print(f"{len(tally.results):,} poses on {tally.read:,} pictures -> {printable(str(out))}")


def _category(skeleton: Skeleton) -> Mapping[str, Any]:
    place = {name: at for at, name in enumerate(skeleton.keypoints, 1)}  # COCO counts from 1
    return {
        "id": CATEGORY,
        "name": skeleton.name,
        "keypoints": list(skeleton.keypoints),
        "skeleton": [[place[one], place[other]] for one, other in skeleton.bones],
    }


def _tell(args: Args, tally: Tally, boxes: GivenBoxes | None) -> None:
    """What to know of the pictures and boxes before trusting the poses."""
    if tally.without_boxes:
        print(f"{tally.without_boxes:,} pictures have no boxes in {printable(str(args.boxes))}")
    if boxes and boxes.empty:
        print(f"{boxes.empty:,} boxes have no area, and were left out")
    if tally.turned:
        what = (
            f"{len(tally.turned):,} pictures ask to be shown turned (EXIF), and are read as stored"
        )
        print(f"{what}: {printable(shortened(tally.turned))}")
    if tally.unread:
        print(f"{len(tally.unread):,} pictures could not be read")
