"""`hrnet-ray predict`."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hrnet_ray.cli.model_resolution import MlflowStoreArgs, resolve_model, select_device
from hrnet_ray.cli.prediction.box_file import BoxFile, load_box_file
from hrnet_ray.cli.prediction.box_sources import (
    BoxSource,
    DetectorBoxSource,
    FileBoxSource,
    TrackedBoxSource,
)
from hrnet_ray.cli.prediction.coco_writer import RESULTS_FILE, PredictionWriter
from hrnet_ray.cli.prediction.inputs import InputReader, batch_frames, is_video, open_inputs
from hrnet_ray.cli.prediction.overlays import OverlayWriter, check_output_dir
from hrnet_ray.data.annotations import ensure_dir
from hrnet_ray.data.video.reader import import_pyav
from hrnet_ray.errors import DataError, UsageError, format_list
from hrnet_ray.inference.detectors.detector import FormatChoice, ObjectDetector
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.runs.progress import print_line
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.text import escape_control_chars

BATCH_SIZE_BY_DEVICE = {"cuda": 16}
"""Pictures that a device takes at once, unless it takes one: then Ctrl-C loses nothing."""


@dataclass(frozen=True, kw_only=True)
class PredictArgs:
    """Find keypoints on a picture, in a video, or on all of a folder and of those below it.

    Writes predictions.coco.json (COCO results, with file names), keypoints.json (COCO's category
    with their names and bones), a drawing of each picture and video, and a table of each video:
    clip.mp4.csv. What was found stays when it is stopped half-way.
    """

    model: str
    """A model folder, a run's folder, weights beside their config.json, the id of an MLflow run, or
    models:/NAME@champion."""
    input: Path
    """A picture, a video or a folder."""
    out: Path = Path("predictions")
    boxes: Path | None = None
    """JSON: {"a.jpg": [[x, y, w, h], ...]}, a COCO annotation file, or COCO detections whose
    image_id is the file's name. Without it a box is the whole picture. "clip.mp4" is a whole video,
    "clip.mp4#12" a frame, counted from 0."""
    track: bool = False
    """In a video, look for the next frame's pose around this one's."""
    detector: Path | None = None
    """An ONNX file that finds the boxes."""
    detector_format: FormatChoice = "auto"
    """Its family; auto tells it by the outputs (docs/detect.md)."""
    detector_classes: tuple[int, ...] = ()
    """Numbers of the wanted classes, from 0; none for all."""
    detector_min_score: float = 0.3
    """The least score of a box."""
    draw: bool = True
    """Draw the poses; the drawings lie in `out` as the pictures in their folder."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    strict: bool = False
    """Fail when a picture or video cannot be read, instead of naming it and going on."""
    tracking_uri: str | None = None
    """MLflow server of a model that is named by MLflow; without one, the file in `storage`."""
    storage_path: Path = Path("runs")
    """Folder of the trainings, which has the MLflow file."""


def run(args: PredictArgs) -> int:
    """Predict every picture and frame that can be read, in the order of their names."""
    _validate_box_flags(args)
    earlier = args.out.resolve() if (args.out / RESULTS_FILE).is_file() else None
    shots = open_inputs(
        args.input, exclude_dir=earlier
    )  # an earlier run's drawings are no pictures
    check_output_dir(args.out, shots.root, shots.relative_paths)
    if shots.video_paths:
        import_pyav()
    given = (
        load_box_file(args.boxes, [shots.root / at for at in shots.relative_paths])
        if args.boxes
        else None
    )
    boxes = _build_box_source(args, shots, given)
    loaded = resolve_model(
        args.model, "--model", MlflowStoreArgs(args.tracking_uri, args.storage_path)
    )
    predictor = Predictor(loaded.model, loaded.spec, device=select_device(args.device))
    ensure_dir(args.out, "--out")
    results = PredictionWriter(args.out, loaded.spec.skeleton)
    try:
        with _open_overlay_writer(args, shots, loaded.spec.skeleton) as drawings:
            _predict_frames(shots, boxes, predictor, results, drawings)
    finally:  # a full disk or Ctrl-C costs the poses to come, not those that were found
        results.write_files()
        out = escape_control_chars(str(args.out))
        print_line(f"{len(results):,} poses on {results.processed_count} -> {out}")
    _print_notes(args, shots, results, boxes, given)
    failed = not results or (args.strict and (shots.unreadable_files or shots.partial_videos))
    return DataError.exit_code if failed else 0


def _predict_frames(
    input_reader: InputReader,
    box_source: BoxSource,
    predictor: Predictor,
    prediction_writer: PredictionWriter,
    overlay_writer: OverlayWriter | None,
) -> None:
    most = 1 if box_source.is_sequential else BATCH_SIZE_BY_DEVICE.get(predictor.device.type, 1)
    for some in batch_frames(input_reader, max_batch_size=most):
        where = [box_source.get_boxes(shot) for shot in some]
        pictures = [shot.image for shot in some]
        found = predictor.predict_images(pictures, [boxes_xywhs[:, :4] for boxes_xywhs in where])
        for shot, its_boxes, poses in zip(some, where, found, strict=True):
            prediction_writer.add_frame(shot, its_boxes, poses)
            box_source.update(poses)
        for shot, poses in zip(some, found, strict=True):
            if overlay_writer:
                overlay_writer.add_frame(shot, poses)


def _validate_box_flags(args: PredictArgs) -> None:
    """Refuse boxes that come from two places, and settings of a detector that is not there."""
    said = {
        "--boxes": args.boxes,
        "--track": args.track,
        "--detector-format": args.detector_format != PredictArgs.detector_format,
        "--detector-classes": args.detector_classes,
        "--detector-min-score": args.detector_min_score != PredictArgs.detector_min_score,
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


def _build_box_source(
    args: PredictArgs, input_reader: InputReader, box_file: BoxFile | None
) -> BoxSource:
    if args.detector:
        detector = ObjectDetector.from_file(
            args.detector,
            format_name=args.detector_format,
            class_ids=args.detector_classes,
            min_score=args.detector_min_score,
            device=select_device(args.device),
        )
        return DetectorBoxSource(detector)
    still = (
        FileBoxSource(box_file, input_reader.root, escape_control_chars(str(args.boxes)))
        if box_file
        else BoxSource()
    )
    return TrackedBoxSource(still) if args.track and input_reader.video_paths else still


def _open_overlay_writer(
    args: PredictArgs, input_reader: InputReader, skeleton: Skeleton
) -> AbstractContextManager[OverlayWriter | None]:
    return (
        OverlayWriter(args.out, input_reader.relative_paths, skeleton)
        if args.draw
        else nullcontext()
    )


def _print_notes(
    args: PredictArgs,
    input_reader: InputReader,
    prediction_writer: PredictionWriter,
    box_source: BoxSource,
    box_file: BoxFile | None,
) -> None:
    """What to know of the pictures and boxes before trusting the poses."""
    if prediction_writer.missing_boxes_count:
        print(box_source.format_missing_message(str(prediction_writer.missing_boxes_count)))
    if box_file and box_file.num_empty:
        print(f"{box_file.num_empty:,} boxes have no area, and were left out")
    if args.track and not input_reader.video_paths:
        print("--track: there is no video")
    if input_reader.exif_rotated_images:
        what = f"{len(input_reader.exif_rotated_images):,} pictures ask to be shown turned (EXIF), and are read as stored"
        print(f"{what}: {escape_control_chars(format_list(input_reader.exif_rotated_images))}")
    if input_reader.unreadable_files:
        print(f"{_format_file_counts(input_reader.unreadable_files)} could not be read")
    if input_reader.partial_videos:
        print(f"{len(input_reader.partial_videos):,} videos could be read in part only")


def _format_file_counts(relative_paths: list[Path]) -> str:
    videos = sum(map(is_video, relative_paths))
    still, moving = f"{len(relative_paths) - videos:,} pictures", f"{videos:,} videos"
    return " and ".join(what for what in (still, moving) if not what.startswith("0 "))
