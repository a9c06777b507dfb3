"""Annotation sources of `hrnet-ray prepare`: from its flags to labelled splits."""

import json
from dataclasses import fields, replace
from pathlib import Path

from hrnet_ray import skeletons
from hrnet_ray.cli.prepare_args import (
    AtrwArgs,
    CocoArgs,
    DeepLabCutArgs,
    MpiiArgs,
    OutputArgs,
    SyntheticArgs,
    YoloArgs,
)
from hrnet_ray.data.annotations import AnnotationSet, ensure_dir, require_file
from hrnet_ray.data.archives.extract import extract_archive
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.formats.deeplabcut import read_deeplabcut
from hrnet_ray.data.formats.mpii import read_mpii
from hrnet_ray.data.formats.mpii_release import read_mpii_release
from hrnet_ray.data.formats.yolo_pose import read_yolo_pose
from hrnet_ray.data.shards import ProgressCallback
from hrnet_ray.data.splits import SplitSource, split_by_image, split_by_video
from hrnet_ray.data.storage import PathOrUri, is_uri, open_storage_dir
from hrnet_ray.errors import DataError, UsageError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
ATRW_ARCHIVES = ("atrw_pose_train", "atrw_pose_val", "atrw_anno_pose_train")


def unpack_atrw(args: AtrwArgs, *, progress: ProgressCallback) -> CocoArgs:
    """Unpack ATRW's annotations and return COCO flags; `load_splits` unpacks the images.

    Raises:
        DataError: an archive, or a file in it, does not exist.
    """
    train, val, labels = (args.archives_dir / f"{name}.tar.gz" for name in ATRW_ARCHIVES)
    for archive in (train, val, labels):
        require_file(archive, "--archives-dir")
    annotations_dir = _get_scratch_dir(args.out, "unpacked archives") / "annotations"
    extract_archive(labels, annotations_dir, progress=progress)
    return CocoArgs(
        images=train,
        annotations=_find_unpacked_file(annotations_dir, "keypoint_train.json", labels),
        val_images=val,
        val_annotations=_find_unpacked_file(annotations_dir, "keypoint_val.json", labels),
        skeleton="atrw",
        **{field.name: getattr(args, field.name) for field in fields(OutputArgs)},
    )


def _find_unpacked_file(folder: Path, name: str, archive: Path) -> Path:
    for path in sorted(folder.rglob(name)):
        return path
    raise DataError(f"the archive has no {name}", str(archive), "download ATRW's pose annotations again")


def convert_yolo_to_coco(args: YoloArgs, *, progress: ProgressCallback) -> tuple[CocoArgs, list[str]]:
    """Convert YOLO-pose labels to COCO files below `--out`; return COCO flags and notes.

    Raises:
        DataError: the labels cannot be read, or the files cannot be written.
    """
    coco_dir = _get_scratch_dir(args.out, "converted labels") / "coco"
    skeleton = skeletons.load_skeleton(args.skeleton) if args.skeleton else None
    labels = read_yolo_pose(args.yaml, skeleton=skeleton, progress=progress, skip_missing=args.skip_missing)
    ensure_dir(coco_dir, "--out")
    folder = open_storage_dir(coco_dir, "--out")
    for name, content in {
        "skeleton.yaml": skeletons.to_dict(labels.skeleton),  # JSON is valid YAML
        **{f"{split}.json": document for split, document in labels.documents.items()},
    }.items():
        folder.write_bytes(name, json.dumps(content, ensure_ascii=False).encode())
    files = CocoArgs(
        images=labels.images_dir,
        annotations=coco_dir / "train.json",
        val_annotations=coco_dir / "val.json" if "val" in labels.documents else None,
        val_fraction=args.val_fraction,
        seed=args.seed,
        skeleton=str(coco_dir / "skeleton.yaml"),
        **{field.name: getattr(args, field.name) for field in fields(OutputArgs)},
    )
    return files, labels.notes


def load_deeplabcut_splits(args: DeepLabCutArgs, *, progress: ProgressCallback) -> dict[str, SplitSource]:
    """Read a DeepLabCut project and split it by its videos.

    Raises:
        UsageError: `--val-fraction` is not between 0 and 1.
        DataError: the project cannot be read or split.
    """
    _validate_val_fraction(args.val_fraction)
    skeleton = skeletons.load_skeleton(args.skeleton) if args.skeleton else None
    project = read_deeplabcut(args.project, skeleton=skeleton, progress=progress, skip_missing=args.skip_missing)
    train, val = split_by_video(
        project.labels, val_fraction=args.val_fraction, seed=args.seed, val_videos=args.val_videos
    )
    return {
        "train": SplitSource(train, project.images_dir),
        "val": SplitSource(val, project.images_dir),
    }


def with_notes(sources: dict[str, SplitSource], notes: list[str]) -> dict[str, SplitSource]:
    """Return the sources with `notes` put in front of those of the training split."""
    train = sources["train"]
    labels = replace(train.labels, notes=[*notes, *train.labels.notes])
    return sources | {"train": replace(train, labels=labels)}


def generate_synthetic(args: SyntheticArgs, *, progress: ProgressCallback) -> CocoArgs | MpiiArgs:
    """Generate images and labels in the layout of ATRW or MPII; return flags that read them."""
    from hrnet_ray.data.synthetic.datasets import write_people_dataset, write_tiger_dataset

    raw = _get_scratch_dir(args.out, "synthetic images")
    common = {field.name: getattr(args, field.name) for field in fields(OutputArgs)}
    if args.kind == "tigers":
        write_tiger_dataset(
            raw,
            num_train=args.num_train,
            num_val=args.num_val,
            seed=args.seed,
            on_progress=progress,
        )
        return CocoArgs(
            images=raw / "images" / "train",
            annotations=raw / "annotations" / "keypoint_train.json",
            val_images=raw / "images" / "val",
            val_annotations=raw / "annotations" / "keypoint_val.json",
            skeleton="atrw",
            **common,
        )
    write_people_dataset(raw, num_train=args.num_train, num_val=args.num_val, seed=args.seed, on_progress=progress)
    return MpiiArgs(
        images=raw / "images",
        annotations=raw / "annot" / "train.json",
        val_annotations=raw / "annot" / "valid.json",
        gt_valid=raw / "annot" / "gt_valid.mat",
        **common,
    )


def load_splits(args: CocoArgs | MpiiArgs, *, progress: ProgressCallback) -> dict[str, SplitSource]:
    """Read the annotations and find the folders of their images.

    Raises:
        UsageError: flags contradict each other.
        DataError: a file or folder does not exist or cannot be read.
    """
    _validate_flags(args)
    train, val = _read_annotation_files(args)
    if val is None:
        train, val = split_by_image(train, val_fraction=args.val_fraction, seed=args.seed)
    sources = {}
    for split, labels, images, flag in (
        ("train", train, args.images, "--images"),
        ("val", val, args.val_images or args.images, "--val-images"),
    ):
        folder = _resolve_image_dir(images, flag, args.out, labels, progress)
        sources[split] = SplitSource(labels, folder)
    return sources


def _validate_flags(args: CocoArgs | MpiiArgs) -> None:
    """Raise if files do not exist or flags contradict each other; the message names the flag."""
    _check_image_location(args.images, "--images")
    require_file(args.annotations, "--annotations")
    if args.val_annotations is not None:
        require_file(args.val_annotations, "--val-annotations")
        _check_image_location(args.val_images or args.images, "--val-images")
        return
    gt_valid = args.gt_valid if isinstance(args, MpiiArgs) else None
    for flag, value in (("--val-images", args.val_images), ("--gt-valid", gt_valid)):
        if value is not None:
            raise UsageError(f"{flag} needs --val-annotations", f"{flag} {value}", "give both flags, or neither")
    _validate_val_fraction(args.val_fraction)


def _validate_val_fraction(val_fraction: float) -> None:
    if not 0 < val_fraction < 1:
        raise UsageError(
            f"--val-fraction must be between 0 and 1 (exclusive), got {val_fraction:g}",
            "hrnet-ray prepare",
            "give a fraction such as 0.1",
        )


def _check_image_location(images: PathOrUri, flag: str) -> None:
    if not _is_archive(images):
        open_storage_dir(images, flag).check_exists(flag)


def _is_archive(images: PathOrUri) -> bool:
    return not is_uri(images) and str(images).lower().endswith(ARCHIVE_SUFFIXES)


def _resolve_image_dir(
    images: PathOrUri, flag: str, out: PathOrUri, labels: AnnotationSet, progress: ProgressCallback
) -> PathOrUri:
    """Return the folder of the images; an archive is unpacked below `out` first."""
    if not _is_archive(images):
        return images
    archive = Path(images)
    scratch_dir = _get_scratch_dir(out, f"the images of {flag} {archive.name}")
    unpacked_dir = scratch_dir / archive.name.split(".")[0]
    extract_archive(archive, unpacked_dir, progress=progress)
    return _find_image_root(unpacked_dir, labels)


def _find_image_root(folder: Path, labels: AnnotationSet) -> Path:
    """Find the folder of an unpacked archive that the annotations' file names are relative to."""
    for instance in labels.instances[:1]:
        if not (folder / instance.image).is_file():
            for path in sorted(folder.rglob(Path(instance.image).name)):
                if path.as_posix().endswith(f"/{instance.image}"):
                    return Path(path.as_posix().removesuffix(f"/{instance.image}"))
    return folder


def _get_scratch_dir(out: PathOrUri, content: str) -> Path:
    if is_uri(out):
        raise UsageError(
            f"--out must be a local folder for {content}, got a URI",
            f"--out {out}",
            "prepare into a local folder and upload it",
        )
    return Path(out) / "pictures"


def _read_annotation_files(args: CocoArgs | MpiiArgs) -> tuple[AnnotationSet, AnnotationSet | None]:
    if isinstance(args, MpiiArgs):
        if args.annotations.suffix == ".mat":
            return _load_mpii_release_splits(args)
        if args.val_annotations is None:
            return read_mpii(args.annotations), None
        return read_mpii(args.annotations), read_mpii(args.val_annotations, gt_valid=args.gt_valid)
    skeleton = skeletons.load_skeleton(args.skeleton) if args.skeleton else None
    train = read_coco(args.annotations, skeleton=skeleton)
    if args.val_annotations is None:
        return train, None
    return train, read_coco(args.val_annotations, skeleton=skeleton or train.skeleton)


def _load_mpii_release_splits(args: MpiiArgs) -> tuple[AnnotationSet, AnnotationSet]:
    if args.gt_valid is not None:
        raise UsageError(
            "--gt-valid cannot be combined with the original release",
            f"--gt-valid {args.gt_valid}",
            "omit --gt-valid: the release contains the ground truth and the head sizes",
        )
    return read_mpii_release(
        args.annotations,
        valid_json=args.val_annotations,
        val_fraction=args.val_fraction,
        seed=args.seed,
    )
