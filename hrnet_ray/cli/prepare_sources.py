"""What `hrnet-ray prepare` reads: from its flags to labels with their pictures."""

import json
from dataclasses import fields, replace
from pathlib import Path

from hrnet_ray import skeletons
from hrnet_ray.cli.prepare_args import Atrw, Coco, Dlc, Mpii, Output, Synthetic, Yolo
from hrnet_ray.data.annotations import Labels, check_file, make_folder
from hrnet_ray.data.archives.extract import extract
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.formats.deeplabcut import read_dlc
from hrnet_ray.data.formats.mpii import read_mpii
from hrnet_ray.data.formats.mpii_release import read_mpii_release
from hrnet_ray.data.formats.yolo_pose import read_yolo
from hrnet_ray.data.shards import Progress
from hrnet_ray.data.splits import Source, split_by_folder, split_by_picture
from hrnet_ray.data.storage import Place, is_uri, open_folder
from hrnet_ray.errors import DataError, UsageError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
ATRW_ARCHIVES = ("atrw_pose_train", "atrw_pose_val", "atrw_anno_pose_train")


def downloaded(args: Atrw, *, progress: Progress) -> Coco:
    """Unpack ATRW's annotations; its pictures are unpacked when they are asked for.

    Raises:
        DataError: an archive, or a file in it, is not there.
    """
    train, val, labels = (args.downloads / f"{name}.tar.gz" for name in ATRW_ARCHIVES)
    for archive in (train, val, labels):
        check_file(archive, "--downloads")
    into = _beside(args.out, "unpacked archives") / "annotations"
    extract(labels, into, progress=progress)
    return Coco(
        images=train,
        annotations=_found(into, "keypoint_train.json", labels),
        val_images=val,
        val_annotations=_found(into, "keypoint_val.json", labels),
        skeleton="atrw",
        **{field.name: getattr(args, field.name) for field in fields(Output)},
    )


def _found(folder: Path, name: str, archive: Path) -> Path:
    for path in sorted(folder.rglob(name)):
        return path
    raise DataError(
        f"no {name} in an archive", str(archive), "download it again: ATRW's pose annotations"
    )


def converted(args: Yolo, *, progress: Progress) -> tuple[Coco, list[str]]:
    """Write what YOLO-pose labels say as COCO files, beside what will be made of them.

    What a person should know of them is returned as well.

    Raises:
        DataError: the labels cannot be read, or the files not written.
    """
    into = _beside(args.out, "labels in COCO's form") / "coco"
    given = skeletons.named(args.skeleton) if args.skeleton else None
    found = read_yolo(args.yaml, skeleton=given, progress=progress, skip_missing=args.skip_missing)
    make_folder(into, "--out")
    folder = open_folder(into, "--out")
    for name, content in {
        "skeleton.yaml": skeletons.to_dict(found.skeleton),  # JSON is YAML
        **{f"{split}.json": document for split, document in found.documents.items()},
    }.items():
        folder.write_bytes(name, json.dumps(content, ensure_ascii=False).encode())
    files = Coco(
        images=found.images,
        annotations=into / "train.json",
        val_annotations=into / "val.json" if "val" in found.documents else None,
        val_share=args.val_share,
        seed=args.seed,
        skeleton=str(into / "skeleton.yaml"),
        **{field.name: getattr(args, field.name) for field in fields(Output)},
    )
    return files, found.notes


def dlc_sources(args: Dlc, *, progress: Progress) -> dict[str, Source]:
    """Read a DeepLabCut project, and part it by its videos.

    Raises:
        UsageError: a share that is none.
        DataError: the project cannot be read, or not be parted.
    """
    _check_share(args.val_share)
    given = skeletons.named(args.skeleton) if args.skeleton else None
    found = read_dlc(
        args.project, skeleton=given, progress=progress, skip_missing=args.skip_missing
    )
    parts = split_by_folder(
        found.labels, val_share=args.val_share, seed=args.seed, named=args.val_videos
    )
    splits = zip(("train", "val"), parts, strict=True)
    return {split: Source(labels, found.images) for split, labels in splits}


def noted(sources: dict[str, Source], notes: list[str]) -> dict[str, Source]:
    """The same, with notes on the whole at the training split."""
    train = sources["train"]
    labels = replace(train.labels, notes=[*notes, *train.labels.notes])
    return sources | {"train": replace(train, labels=labels)}


def draw(args: Synthetic, *, progress: Progress) -> Coco | Mpii:
    """Draw pictures in the layout of ATRW or MPII; the same readers take them from there."""
    from hrnet_ray.data.synthetic.datasets import write_people, write_tigers

    raw = _beside(args.out, "drawn pictures")
    common = {field.name: getattr(args, field.name) for field in fields(Output)}
    if args.kind == "tigers":
        write_tigers(raw, train=args.train, val=args.val, seed=args.seed, progress=progress)
        return Coco(
            images=raw / "images" / "train",
            annotations=raw / "annotations" / "keypoint_train.json",
            val_images=raw / "images" / "val",
            val_annotations=raw / "annotations" / "keypoint_val.json",
            skeleton="atrw",
            **common,
        )
    write_people(raw, train=args.train, val=args.val, seed=args.seed, progress=progress)
    return Mpii(
        images=raw / "images",
        annotations=raw / "annot" / "train.json",
        val_annotations=raw / "annot" / "valid.json",
        gt_valid=raw / "annot" / "gt_valid.mat",
        **common,
    )


def sources_of(args: Coco | Mpii, *, progress: Progress) -> dict[str, Source]:
    """Read the annotations, and find the folders of their pictures.

    Raises:
        UsageError: flags do not go together.
        DataError: something is not there or cannot be read.
    """
    _check(args)
    train, val = _read_both(args)
    if val is None:
        train, val = split_by_picture(train, val_share=args.val_share, seed=args.seed)
    found = {}
    for split, labels, images, flag in (
        ("train", train, args.images, "--images"),
        ("val", val, args.val_images or args.images, "--val-images"),
    ):
        folder = _folder(images, flag, args.out, labels, progress)
        found[split] = Source(labels, folder)
    return found


def _check(args: Coco | Mpii) -> None:
    """Refuse what does not go together, by the flags' own names."""
    _check_images(args.images, "--images")
    check_file(args.annotations, "--annotations")
    if args.val_annotations is not None:
        check_file(args.val_annotations, "--val-annotations")
        _check_images(args.val_images or args.images, "--val-images")
        return
    gt_valid = args.gt_valid if isinstance(args, Mpii) else None
    for flag, given in (("--val-images", args.val_images), ("--gt-valid", gt_valid)):
        if given is not None:
            raise UsageError(
                f"{flag} without --val-annotations", f"{flag} {given}", "name both, or neither"
            )
    _check_share(args.val_share)


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise UsageError(
            "a share that leaves nothing to learn or nothing to score",
            f"--val-share {share}",
            "give a number between 0 and 1, such as 0.1",
        )


def _check_images(images: Place, flag: str) -> None:
    if not _is_archive(images):
        open_folder(images, flag).check(flag)


def _is_archive(images: Place) -> bool:
    return not is_uri(images) and str(images).lower().endswith(ARCHIVES)


def _folder(images: Place, flag: str, out: Place, labels: Labels, progress: Progress) -> Place:
    """The folder of pictures; an archive is unpacked beside what will be made of it."""
    if not _is_archive(images):
        return images
    archive = Path(images)
    into = _beside(out, f"the pictures of {flag} {archive.name}") / archive.name.split(".")[0]
    extract(archive, into, progress=progress)
    return _start_of_names(into, labels)


def _start_of_names(folder: Path, labels: Labels) -> Path:
    """Where in an unpacked archive the file names of the annotations start from."""
    for instance in labels.instances[:1]:
        if not (folder / instance.image).is_file():
            for found in sorted(folder.rglob(Path(instance.image).name)):
                if found.as_posix().endswith(f"/{instance.image}"):
                    return Path(found.as_posix().removesuffix(f"/{instance.image}"))
    return folder


def _beside(out: Place, what: str) -> Path:
    if is_uri(out):
        raise UsageError(
            f"{what} need a folder of this machine", f"--out {out}", "unpack or draw them elsewhere"
        )
    return Path(out) / "pictures"


def _read_both(args: Coco | Mpii) -> tuple[Labels, Labels | None]:
    if isinstance(args, Mpii):
        if args.annotations.suffix == ".mat":
            return _read_release(args)
        if args.val_annotations is None:
            return read_mpii(args.annotations), None
        return read_mpii(args.annotations), read_mpii(args.val_annotations, gt_valid=args.gt_valid)
    skeleton = skeletons.named(args.skeleton) if args.skeleton else None
    train = read_coco(args.annotations, skeleton=skeleton)
    if args.val_annotations is None:
        return train, None
    return train, read_coco(args.val_annotations, skeleton=skeleton or train.skeleton)


def _read_release(args: Mpii) -> tuple[Labels, Labels]:
    if args.gt_valid is not None:
        raise UsageError(
            "--gt-valid with the original release",
            f"--gt-valid {args.gt_valid}",
            "leave it out: the release holds the truth and the head sizes itself",
        )
    return read_mpii_release(
        args.annotations, valid=args.val_annotations, val_share=args.val_share, seed=args.seed
    )
