"""`hrnet-ray predict`."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hrnet_ray.cli.models import Store, device_of, load
from hrnet_ray.data import pictures
from hrnet_ray.data.drawing import draw_pose
from hrnet_ray.data.labels import check_file, make_folder, numbers
from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.learning.loop import Predictions
from hrnet_ray.learning.scores import CONFIDENT, instance_scores

Boxes = Mapping[str, list[list[float]]]


@dataclass(frozen=True, kw_only=True)
class Args:
    """Find keypoints on a picture, or on all pictures of a folder.

    Writes predictions.coco.json (COCO results, with file names) and a drawing of each picture.
    """

    model: str
    """A model folder, a run's folder, weights beside their config.json, the id of an MLflow run, or
    models:/NAME@champion."""
    pictures: Path
    """A picture or a folder."""
    out: Path = Path("predictions")
    boxes: Path | None = None
    """JSON: {"a.jpg": [[x, y, w, h], ...]}, or a COCO annotation file. Without it a box is the
    whole picture."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    strict: bool = False
    """Fail when a picture cannot be read, instead of naming it and going on."""
    tracking_uri: str | None = None
    """MLflow server of a model that is named by MLflow; without one, the file in `storage`."""
    storage: Path = Path("runs")
    """Folder of the trainings, which has the MLflow file."""


def run(args: Args) -> int:
    """Predict every readable picture, in the order of their names."""
    paths = list(_picture_paths(args.pictures))
    if args.out.resolve() in {path.parent.resolve() for path in paths}:
        raise UsageError(
            "the drawings would be written over the pictures",
            f"--out {args.out}",
            "give another folder",
        )
    boxes = read_boxes(args.boxes) if args.boxes else None
    loaded = load(args.model, "--model", Store(args.tracking_uri, args.storage))
    predictor = Predictor(loaded.model, loaded.spec, device=device_of(args.device))
    make_folder(args.out, "--out")
    results: list[dict[str, Any]] = []
    unread: list[str] = []
    without_boxes = 0
    for path in paths:
        try:
            picture = pictures.read(path)
        except DataError as error:
            unread.append(path.name)
            print(f"skipped {path.name}: {error.what}")
            continue
        found_in = _boxes_of(path, picture, boxes)
        if not len(found_in):
            without_boxes += 1
            continue
        found = predictor(picture, found_in)
        results += _results(found, path.name, len(results))
        drawing = _drawn(picture, found, predictor)
        pictures.write(args.out / _drawing_name(path, paths), drawing)
    (args.out / "predictions.coco.json").write_text(json.dumps(results), encoding="utf-8")
    print(f"{len(results):,} poses on {len(paths) - len(unread):,} pictures -> {args.out}")
    if without_boxes:
        print(f"{without_boxes:,} pictures have no boxes in {args.boxes}")
    if unread:
        print(f"{len(unread):,} pictures could not be read")
    failed = len(unread) == len(paths) or (unread and args.strict)
    return DataError.exit_code if failed else 0


def read_boxes(path: Path) -> Boxes:
    """Boxes by file name, from a plain mapping or a COCO annotation file.

    Raises:
        DataError: the file is in neither form.
    """
    check_file(path, "--boxes")
    try:
        document = json.loads(path.read_bytes())
        if "annotations" not in document:
            return {
                name: [_box(box, f"{name}[{at}]") for at, box in enumerate(boxes)]
                for name, boxes in document.items()
            }
        names = {i["id"]: i.get("file_name") or i["filename"] for i in document["images"]}
        boxes: dict[str, list[list[float]]] = {}
        for at, annotation in enumerate(document["annotations"]):
            box = _box(annotation["bbox"], f"annotations[{at}].bbox")
            boxes.setdefault(names[annotation["image_id"]], []).append(box)
        return boxes
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"boxes that cannot be read ({type(error).__name__}: {error})",
            f"--boxes {path}",
            'write {"a.jpg": [[x, y, w, h]]}, or give a COCO annotation file',
        ) from error


def _box(value: object, where: str) -> list[float]:
    x, y, w, h = numbers(value, 4, where)
    if w <= 0 or h <= 0:
        raise ValueError(f"{where} is {w:g} wide and {h:g} high")
    return [float(x), float(y), float(w), float(h)]


def _drawing_name(path: Path, paths: list[Path]) -> str:
    """`a.jpg` for `a.png`, or `a.png.jpg` where there is an `a.jpg` as well."""
    alone = sum(other.stem == path.stem for other in paths) == 1
    return f"{path.stem if alone else path.name}.jpg"


def _picture_paths(path: Path) -> Iterator[Path]:
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in pictures.PICTURE_ENDINGS)
        if not found:
            raise DataError("a folder without pictures", f"--pictures {path}", "give another one")
        yield from found
        return
    check_file(path, "--pictures")
    yield path


def _boxes_of(path: Path, picture: np.ndarray, boxes: Boxes | None) -> np.ndarray:
    height, width = picture.shape[:2]
    found = (
        [[0, 0, max(1, width - 1), max(1, height - 1)]]
        if boxes is None
        else boxes.get(path.name, [])
    )
    return np.asarray(found, np.float64).reshape(-1, 4)


def _results(found: Predictions, name: str, first: int) -> list[dict[str, Any]]:
    points = np.concatenate([found.image_xy.numpy(), found.scores.numpy()[..., None]], axis=-1)
    return [
        {
            "image_id": name,
            "category_id": 1,
            "id": first + at + 1,
            "keypoints": [round(float(value), 3) for value in points[at].ravel()],
            "score": float(score),
        }
        for at, score in enumerate(instance_scores(found))
    ]


def _drawn(picture: np.ndarray, found: Predictions, predictor: Predictor) -> np.ndarray:
    thickness = max(1, round(max(picture.shape[:2]) / 320))
    for xy, scores in zip(found.image_xy.numpy(), found.scores.numpy(), strict=True):
        picture = draw_pose(
            picture, xy, scores > CONFIDENT, predictor.spec.skeleton, thickness=thickness
        )
    return picture
