"""`hrnet-ray predict`."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hrnet_ray.cli.model_resolution import Store, device_of, load
from hrnet_ray.cli.prediction.box_file import GivenBoxes, read_boxes
from hrnet_ray.cli.prediction.box_sources import Boxes, Detected, Followed, Given
from hrnet_ray.cli.prediction.coco_writer import RESULTS, Results
from hrnet_ray.cli.prediction.inputs import Shots, is_video, shots_of, together
from hrnet_ray.cli.prediction.overlays import Drawings, check_out
from hrnet_ray.data.annotations import make_folder
from hrnet_ray.data.video.reader import pyav
from hrnet_ray.errors import DataError, UsageError, shortened
from hrnet_ray.inference.detectors.detector import Detector, Wanted
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.runs.progress import say
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.text import printable

AT_ONCE = {"cuda": 16}
"""Pictures that a device takes at once, unless it takes one: then Ctrl-C loses nothing."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Find keypoints on a picture, in a video, or on all of a folder and of those below it.

    Writes predictions.coco.json (COCO results, with file names), keypoints.json (COCO's category
    with their names and bones), a drawing of each picture and video, and a table of each video:
    clip.mp4.csv. What was found stays when it is stopped half-way.
    """

    model: str
    """A model folder, a run's folder, weights beside their config.json, the id of an MLflow run, or
    models:/NAME@champion."""
    pictures: Path
    """A picture, a video or a folder."""
    out: Path = Path("predictions")
    boxes: Path | None = None
    """JSON: {"a.jpg": [[x, y, w, h], ...]}, a COCO annotation file, or COCO detections whose
    image_id is the file's name. Without it a box is the whole picture. "clip.mp4" is a whole video,
    "clip.mp4#12" a frame, counted from 0."""
    follow: bool = False
    """In a video, look for the next frame's pose around this one's."""
    detector: Path | None = None
    """An ONNX file that finds the boxes."""
    detector_kind: Wanted = "auto"
    """Its family; auto tells it by the outputs (docs/detect.md)."""
    detector_classes: tuple[int, ...] = ()
    """Numbers of the wanted classes, from 0; none for all."""
    detector_score: float = 0.3
    """The least score of a box."""
    draw: bool = True
    """Draw the poses; the drawings lie in `out` as the pictures in their folder."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    strict: bool = False
    """Fail when a picture or video cannot be read, instead of naming it and going on."""
    tracking_uri: str | None = None
    """MLflow server of a model that is named by MLflow; without one, the file in `storage`."""
    storage: Path = Path("runs")
    """Folder of the trainings, which has the MLflow file."""


def run(args: Args) -> int:
    """Predict every picture and frame that can be read, in the order of their names."""
    _check_boxes(args)
    earlier = args.out.resolve() if (args.out / RESULTS).is_file() else None
    shots = shots_of(args.pictures, besides=earlier)  # an earlier run's drawings are no pictures
    check_out(args.out, shots.root, shots.names)
    if shots.videos:
        pyav()
    given = read_boxes(args.boxes, [shots.root / at for at in shots.names]) if args.boxes else None
    boxes = _boxes(args, shots, given)
    loaded = load(args.model, "--model", Store(args.tracking_uri, args.storage))
    predictor = Predictor(loaded.model, loaded.spec, device=device_of(args.device))
    make_folder(args.out, "--out")
    results = Results(args.out, loaded.spec.skeleton)
    try:
        with _drawings(args, shots, loaded.spec.skeleton) as drawings:
            _predict(shots, boxes, predictor, results, drawings)
    finally:  # a full disk or Ctrl-C costs the poses to come, not those that were found
        results.write()
        out = printable(str(args.out))
        say(f"{len(results):,} poses on {results.looked_at} -> {out}")
    _tell(args, shots, results, boxes, given)
    failed = not results or (args.strict and (shots.unread or shots.in_part))
    return DataError.exit_code if failed else 0


def _predict(
    shots: Shots, boxes: Boxes, predictor: Predictor, results: Results, drawings: Drawings | None
) -> None:
    most = 1 if boxes.moves else AT_ONCE.get(predictor.device.type, 1)
    for some in together(shots, most=most):
        where = [boxes.on(shot) for shot in some]
        pictures = [shot.picture for shot in some]
        found = predictor.on_pictures(pictures, [boxes_xywhs[:, :4] for boxes_xywhs in where])
        for shot, its_boxes, poses in zip(some, where, found, strict=True):
            results.add(shot, its_boxes, poses)
            boxes.saw(poses)
        for shot, poses in zip(some, found, strict=True):
            if drawings:
                drawings.add(shot, poses)


def _check_boxes(args: Args) -> None:
    """Refuse boxes that come from two places, and settings of a detector that is not there."""
    said = {
        "--boxes": args.boxes,
        "--follow": args.follow,
        "--detector-kind": args.detector_kind != Args.detector_kind,
        "--detector-classes": args.detector_classes,
        "--detector-score": args.detector_score != Args.detector_score,
    }
    flags = [flag for flag, value in said.items() if value]
    others = [flag for flag in flags if not flag.startswith("--detector")]
    if args.detector and others:
        raise UsageError(
            "a detector besides other boxes",
            f"--detector {args.detector} {others[0]}",
            f"leave {others[0]} out: the detector looks at every picture and frame",
        )
    if not args.detector and flags != others:
        raise UsageError(
            "settings of a detector, but no detector",
            " ".join(flag for flag in flags if flag not in others),
            "give its ONNX file as --detector",
        )


def _boxes(args: Args, shots: Shots, given: GivenBoxes | None) -> Boxes:
    if args.detector:
        detector = Detector.from_file(
            args.detector,
            kind=args.detector_kind,
            classes=args.detector_classes,
            least_score=args.detector_score,
            device=device_of(args.device),
        )
        return Detected(detector)
    still = Given(given, shots.root, printable(str(args.boxes))) if given else Boxes()
    return Followed(still) if args.follow and shots.videos else still


def _drawings(
    args: Args, shots: Shots, skeleton: Skeleton
) -> AbstractContextManager[Drawings | None]:
    return Drawings(args.out, shots.names, skeleton) if args.draw else nullcontext()


def _tell(
    args: Args, shots: Shots, results: Results, boxes: Boxes, given: GivenBoxes | None
) -> None:
    """What to know of the pictures and boxes before trusting the poses."""
    if results.without_boxes:
        print(boxes.told(str(results.without_boxes)))
    if given and given.empty:
        print(f"{given.empty:,} boxes have no area, and were left out")
    if args.follow and not shots.videos:
        print("--follow: there is no video")
    if shots.turned:
        what = (
            f"{len(shots.turned):,} pictures ask to be shown turned (EXIF), and are read as stored"
        )
        print(f"{what}: {printable(shortened(shots.turned))}")
    if shots.unread:
        print(f"{_counted(shots.unread)} could not be read")
    if shots.in_part:
        print(f"{len(shots.in_part):,} videos could be read in part only")


def _counted(names: list[Path]) -> str:
    videos = sum(map(is_video, names))
    still, moving = f"{len(names) - videos:,} pictures", f"{videos:,} videos"
    return " and ".join(what for what in (still, moving) if not what.startswith("0 "))
