"""`hrnet-ray predict`: find keypoints in images and videos."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hrnet_ray.cli.model_resolution import ModelArgs, resolve_model, select_device
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
"""Images per batch; other devices take one, so that Ctrl-C loses no finished image."""


@dataclass(frozen=True, kw_only=True)
class PredictArgs(ModelArgs):
    """Find keypoints in an image, a video, or a folder and its subfolders.

    Writes predictions.coco.json (COCO results with file names), keypoints.json (the COCO category
    with keypoint names and bones), an overlay of each image and video, and a CSV of each video,
    such as clip.mp4.csv. An interrupted command keeps the results so far.
    """

    input: Path
    """Image, video or folder."""
    out: Path = Path("predictions")
    """Folder for the results."""
    boxes: Path | None = None
    """JSON file with boxes: {"a.jpg": [[x, y, w, h], ...]}, COCO annotations, or COCO detections
    whose image_id is the file's name. "clip.mp4" names a whole video, "clip.mp4#12" one of its
    frames, counted from 0. By default the box is the whole image."""
    track: bool = False
    """In a video, take the box of each frame from the poses of the frame before."""
    detector: Path | None = None
    """ONNX file of a detector that finds the boxes."""
    detector_format: FormatChoice = "auto"
    """Output format of the detector; auto infers it from the outputs (docs/detect.md)."""
    detector_classes: tuple[int, ...] = ()
    """Indices of the classes to keep, from 0; by default all."""
    detector_min_score: float = 0.3
    """Minimum score of a detected box."""
    draw: bool = True
    """Write overlays of the poses into --out, at the relative paths of the inputs."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device of the model; auto takes a GPU if torch finds one."""
    strict: bool = False
    """Exit with code 3 if a file cannot be read; the others are predicted all the same."""


def run(args: PredictArgs) -> int:
    """Predict every readable image and frame, in the order of their names."""
    _validate_box_flags(args)
    # The overlays of an earlier command are not inputs of this one.
    earlier_results = args.out.resolve() if (args.out / RESULTS_FILE).is_file() else None
    inputs = open_inputs(args.input, exclude_dir=earlier_results)
    check_output_dir(args.out, inputs.root, inputs.relative_paths)
    if inputs.video_paths:
        import_pyav()
    box_file = None
    if args.boxes:
        box_file = load_box_file(args.boxes, [inputs.root / path for path in inputs.relative_paths])
    box_source = _build_box_source(args, inputs, box_file)
    loaded = resolve_model(args.model, "--model", args)
    predictor = Predictor(loaded.model, loaded.spec, device=select_device(args.device))
    ensure_dir(args.out, "--out")
    results = PredictionWriter(args.out, loaded.spec.skeleton)
    try:
        with _open_overlay_writer(args, inputs, loaded.spec.skeleton) as overlays:
            _predict_frames(inputs, box_source, predictor, results, overlays)
    finally:  # a full disk or Ctrl-C must not lose the poses so far
        results.write_files()
        out = escape_control_chars(str(args.out))
        print_line(f"{len(results):,} poses on {results.processed_count} -> {out}")
    _print_notes(args, inputs, results, box_source, box_file)
    failed = not results or (args.strict and (inputs.unreadable_files or inputs.partial_videos))
    return DataError.exit_code if failed else 0


def _predict_frames(
    input_reader: InputReader,
    box_source: BoxSource,
    predictor: Predictor,
    prediction_writer: PredictionWriter,
    overlay_writer: OverlayWriter | None,
) -> None:
    batch_size = BATCH_SIZE_BY_DEVICE.get(predictor.device.type, 1)
    if box_source.is_sequential:
        batch_size = 1
    for batch in batch_frames(input_reader, max_batch_size=batch_size):
        boxes = [box_source.get_boxes(frame) for frame in batch]
        images = [frame.image for frame in batch]
        predictions = predictor.predict_images(images, [each[:, :4] for each in boxes])
        for frame, frame_boxes, poses in zip(batch, boxes, predictions, strict=True):
            prediction_writer.add_frame(frame, frame_boxes, poses)
            box_source.update(poses)
        if overlay_writer:
            for frame, poses in zip(batch, predictions, strict=True):
                overlay_writer.add_frame(frame, poses)


def _validate_box_flags(args: PredictArgs) -> None:
    """Raise if boxes come from two sources, or if detector settings lack a detector."""
    values = {
        "--boxes": args.boxes,
        "--track": args.track,
        "--detector-format": args.detector_format != PredictArgs.detector_format,
        "--detector-classes": args.detector_classes,
        "--detector-min-score": args.detector_min_score != PredictArgs.detector_min_score,
    }
    flags = [flag for flag, value in values.items() if value]
    others = [flag for flag in flags if not flag.startswith("--detector")]
    if args.detector and others:
        raise UsageError(
            f"--detector cannot be combined with {others[0]}",
            f"--detector {args.detector} {others[0]}",
            f"omit {others[0]}: the detector runs on every image and frame",
        )
    if not args.detector and flags != others:
        raise UsageError(
            "detector settings need --detector",
            " ".join(flag for flag in flags if flag not in others),
            "give the detector's ONNX file as --detector",
        )


def _build_box_source(args: PredictArgs, input_reader: InputReader, box_file: BoxFile | None) -> BoxSource:
    if args.detector:
        detector = ObjectDetector.from_file(
            args.detector,
            format_name=args.detector_format,
            class_ids=args.detector_classes,
            min_score=args.detector_min_score,
            device=select_device(args.device),
        )
        return DetectorBoxSource(detector)
    source = BoxSource()
    if box_file:
        source = FileBoxSource(box_file, input_reader.root, escape_control_chars(str(args.boxes)))
    return TrackedBoxSource(source) if args.track and input_reader.video_paths else source


def _open_overlay_writer(
    args: PredictArgs, input_reader: InputReader, skeleton: Skeleton
) -> AbstractContextManager[OverlayWriter | None]:
    return OverlayWriter(args.out, input_reader.relative_paths, skeleton) if args.draw else nullcontext()


def _print_notes(
    args: PredictArgs,
    input_reader: InputReader,
    prediction_writer: PredictionWriter,
    box_source: BoxSource,
    box_file: BoxFile | None,
) -> None:
    """Print which inputs had no boxes, were read only in part, or not at all."""
    if prediction_writer.missing_boxes_count:
        print(box_source.format_missing_message(str(prediction_writer.missing_boxes_count)))
    if box_file and box_file.num_empty:
        print(f"left out {box_file.num_empty:,} boxes without area")
    if args.track and not input_reader.video_paths:
        print("--track has no effect: there is no video")
    if input_reader.exif_rotated_images:
        names = input_reader.exif_rotated_images
        note = f"ignored the EXIF orientation of {len(names):,} images"
        print(f"{note}: {escape_control_chars(format_list(names))}")
    if input_reader.unreadable_files:
        print(f"{_format_file_counts(input_reader.unreadable_files)} could not be read")
    if input_reader.partial_videos:
        print(f"{len(input_reader.partial_videos):,} videos could be read only in part")


def _format_file_counts(relative_paths: list[Path]) -> str:
    videos = sum(map(is_video, relative_paths))
    counts = {"images": len(relative_paths) - videos, "videos": videos}
    return " and ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
