"""What `hrnet-ray prepare` reads: from its flags to labels with their pictures."""

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
    """Unpack ATRW's annotations; its pictures are unpacked when they are asked for.

    Raises:
        DataError: an archive, or a file in it, is not there.
    """
    train, val, labels = (args.archives_dir / f"{name}.tar.gz" for name in ATRW_ARCHIVES)
    for archive in (train, val, labels):
        require_file(archive, "--archives-dir")
    into = _get_scratch_dir(args.out, "unpacked archives") / "annotations"
    extract_archive(labels, into, progress=progress)
    return CocoArgs(
        images=train,
        annotations=_find_unpacked_file(into, "keypoint_train.json", labels),
        val_images=val,
        val_annotations=_find_unpacked_file(into, "keypoint_val.json", labels),
        skeleton="atrw",
        **{field.name: getattr(args, field.name) for field in fields(OutputArgs)},
    )


def _find_unpacked_file(folder: Path, name: str, archive: Path) -> Path:
    for path in sorted(folder.rglob(name)):
        return path
    raise DataError(
        f"no {name} in an archive", str(archive), "download it again: ATRW's pose annotations"
    )


def convert_yolo_to_coco(
    args: YoloArgs, *, progress: ProgressCallback
) -> tuple[CocoArgs, list[str]]:
    """Write what YOLO-pose labels say as COCO files, beside what will be made of them.

    What a person should know of them is returned as well.

    Raises:
        DataError: the labels cannot be read, or the files not written.
    """
    into = _get_scratch_dir(args.out, "labels in COCO's form") / "coco"
    given = skeletons.load_skeleton(args.skeleton) if args.skeleton else None
    found = read_yolo_pose(
        args.yaml, skeleton=given, progress=progress, skip_missing=args.skip_missing
    )
    ensure_dir(into, "--out")
    folder = open_storage_dir(into, "--out")
    for name, content in {
        "skeleton.yaml": skeletons.to_dict(found.skeleton),  # JSON is YAML
        **{f"{split}.json": document for split, document in found.documents.items()},
    }.items():
        folder.write_bytes(name, json.dumps(content, ensure_ascii=False).encode())
    files = CocoArgs(
        images=found.images_dir,
        annotations=into / "train.json",
        val_annotations=into / "val.json" if "val" in found.documents else None,
        val_fraction=args.val_fraction,
        seed=args.seed,
        skeleton=str(into / "skeleton.yaml"),
        **{field.name: getattr(args, field.name) for field in fields(OutputArgs)},
    )
    return files, found.notes


def load_deeplabcut_splits(
    args: DeepLabCutArgs, *, progress: ProgressCallback
) -> dict[str, SplitSource]:
    """Read a DeepLabCut project, and part it by its videos.

    Raises:
        UsageError: a share that is none.
        DataError: the project cannot be read, or not be parted.
    """
    _validate_val_fraction(args.val_fraction)
    given = skeletons.load_skeleton(args.skeleton) if args.skeleton else None
    found = read_deeplabcut(
        args.project, skeleton=given, progress=progress, skip_missing=args.skip_missing
    )
    parts = split_by_video(
        found.labels, val_fraction=args.val_fraction, seed=args.seed, val_videos=args.val_videos
    )
    splits = zip(("train", "val"), parts, strict=True)
    return {split: SplitSource(labels, found.images_dir) for split, labels in splits}


def with_notes(sources: dict[str, SplitSource], notes: list[str]) -> dict[str, SplitSource]:
    """The same, with notes on the whole at the training split."""
    train = sources["train"]
    labels = replace(train.labels, notes=[*notes, *train.labels.notes])
    return sources | {"train": replace(train, labels=labels)}


def generate_synthetic(args: SyntheticArgs, *, progress: ProgressCallback) -> CocoArgs | MpiiArgs:
    """Draw pictures in the layout of ATRW or MPII; the same readers take them from there."""
    from hrnet_ray.data.synthetic.datasets import write_people_dataset, write_tiger_dataset

    raw = _get_scratch_dir(args.out, "drawn pictures")
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
    write_people_dataset(
        raw, num_train=args.num_train, num_val=args.num_val, seed=args.seed, on_progress=progress
    )
    return MpiiArgs(
        images=raw / "images",
        annotations=raw / "annot" / "train.json",
        val_annotations=raw / "annot" / "valid.json",
        gt_valid=raw / "annot" / "gt_valid.mat",
        **common,
    )


def load_splits(args: CocoArgs | MpiiArgs, *, progress: ProgressCallback) -> dict[str, SplitSource]:
    """Read the annotations, and find the folders of their pictures.

    Raises:
        UsageError: flags do not go together.
        DataError: something is not there or cannot be read.
    """
    _validate_flags(args)
    train, val = _read_annotation_files(args)
    if val is None:
        train, val = split_by_image(train, val_fraction=args.val_fraction, seed=args.seed)
    found = {}
    for split, labels, images, flag in (
        ("train", train, args.images, "--images"),
        ("val", val, args.val_images or args.images, "--val-images"),
    ):
        folder = _resolve_image_dir(images, flag, args.out, labels, progress)
        found[split] = SplitSource(labels, folder)
    return found


def _validate_flags(args: CocoArgs | MpiiArgs) -> None:
    """Refuse what does not go together, by the flags' own names."""
    _check_image_location(args.images, "--images")
    require_file(args.annotations, "--annotations")
    if args.val_annotations is not None:
        require_file(args.val_annotations, "--val-annotations")
        _check_image_location(args.val_images or args.images, "--val-images")
        return
    gt_valid = args.gt_valid if isinstance(args, MpiiArgs) else None
    for flag, given in (("--val-images", args.val_images), ("--gt-valid", gt_valid)):
        if given is not None:
            raise UsageError(
                f"{flag} without --val-annotations", f"{flag} {given}", "name both, or neither"
            )
    _validate_val_fraction(args.val_fraction)


def _validate_val_fraction(val_fraction: float) -> None:
    if not 0 < val_fraction < 1:
        raise UsageError(
            "a share that leaves nothing to learn or nothing to score",
            f"--val-fraction {val_fraction}",
            "give a number between 0 and 1, such as 0.1",
        )


def _check_image_location(images: PathOrUri, flag: str) -> None:
    if not _is_archive(images):
        open_storage_dir(images, flag).check_exists(flag)


def _is_archive(images: PathOrUri) -> bool:
    return not is_uri(images) and str(images).lower().endswith(ARCHIVE_SUFFIXES)


def _resolve_image_dir(
    images: PathOrUri, flag: str, out: PathOrUri, labels: AnnotationSet, progress: ProgressCallback
) -> PathOrUri:
    """The folder of pictures; an archive is unpacked beside what will be made of it."""
    if not _is_archive(images):
        return images
    archive = Path(images)
    into = (
        _get_scratch_dir(out, f"the pictures of {flag} {archive.name}") / archive.name.split(".")[0]
    )
    extract_archive(archive, into, progress=progress)
    return _find_image_root(into, labels)


def _find_image_root(folder: Path, labels: AnnotationSet) -> Path:
    """Where in an unpacked archive the file names of the annotations start from."""
    for instance in labels.instances[:1]:
        if not (folder / instance.image).is_file():
            for found in sorted(folder.rglob(Path(instance.image).name)):
                if found.as_posix().endswith(f"/{instance.image}"):
                    return Path(found.as_posix().removesuffix(f"/{instance.image}"))
    return folder


def _get_scratch_dir(out: PathOrUri, what: str) -> Path:
    if is_uri(out):
        raise UsageError(
            f"{what} need a folder of this machine", f"--out {out}", "unpack or draw them elsewhere"
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
            "--gt-valid with the original release",
            f"--gt-valid {args.gt_valid}",
            "leave it out: the release holds the truth and the head sizes itself",
        )
    return read_mpii_release(
        args.annotations,
        valid_json=args.val_annotations,
        val_fraction=args.val_fraction,
        seed=args.seed,
    )
