"""Where the splits come from: labels with their pictures; one file parted in two."""

import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hrnet_ray.data.annotations import Labels, Reason, Skipped
from hrnet_ray.data.storage import Place, Stamp, open_folder
from hrnet_ray.errors import DataError, shortened
from hrnet_ray.skeletons import Skeleton


@dataclass(frozen=True)
class Source:
    """Where one split comes from."""

    labels: Labels
    images: Place
    """Folder that the names of the pictures start from."""


def check_pictures(source: Source, *, skip_missing: bool = False) -> dict[str, Stamp]:
    """Size and time of every picture that is there; without `skip_missing` all must be.

    Raises:
        DataError: the folder or some pictures are missing; the first few are named.
        ClusterError: the storage does not answer.
    """
    images = open_folder(source.images, "--images")
    images.check("--images")
    stamps = images.stamps({instance.image for instance in source.labels.instances})
    missing = missing_pictures(source, stamps)
    if missing and not skip_missing:
        raise _are_missing(missing, source)
    return stamps


def missing_pictures(source: Source, stamps: Mapping[str, Stamp]) -> list[Skipped]:
    """The instances whose picture is not there."""
    return [
        Skipped(instance.image, Reason.MISSING_PICTURE, f"instance {instance.id}")
        for instance in source.labels.instances
        if instance.image not in stamps
    ]


def _are_missing(missing: list[Skipped], source: Source) -> DataError:
    names = sorted({skipped.item for skipped in missing})
    named = {instance.image for instance in source.labels.instances}
    return DataError(
        f"{len(names):,} of {len(named):,} pictures are not there",
        f"{source.labels.source.name}: {shortened(names)} (below {source.images})",
        "check --images, or add --skip-missing to leave them out (listed in skipped.csv)",
    )


def are_broken(broken: Sequence[Skipped], source: Source) -> DataError:
    """The pictures that nobody can decode, as an error that names them."""
    names = sorted({f"{skipped.item} ({skipped.reason}: {skipped.detail})" for skipped in broken})
    return DataError(
        f"{len(names):,} pictures cannot be read",
        f"below {source.images}: {shortened(names)}",
        "replace them, or add --skip-broken to leave them out (listed in skipped.csv)",
    )


def nothing_left(labels: Labels, skipped: Sequence[Skipped]) -> DataError:
    """A split without rows, as an error that counts the reasons."""
    reasons = Counter(str(thing.reason) for thing in skipped).most_common()
    return DataError(
        "nothing to learn or score",
        f"{labels.source}: {labels.read:,} instances read, none can be used "
        f"({', '.join(f'{count:,} {reason}' for reason, count in reasons) or 'it is empty'})",
        "give a file with labelled keypoints, and the folder with its pictures",
    )


def shared_skeleton(sources: Mapping[str, Source]) -> Skeleton:
    """The skeleton that all splits have.

    Raises:
        DataError: they have different ones.
    """
    skeleton = sources["train"].labels.skeleton
    for split, source in sources.items():
        if source.labels.skeleton.keypoints != skeleton.keypoints:
            raise DataError(
                "the splits have different keypoints",
                f"{split}: {', '.join(source.labels.skeleton.keypoints)}",
                f"they must all be {', '.join(skeleton.keypoints)}",
            )
    return skeleton


def split_by_picture(labels: Labels, *, val_share: float, seed: int = 0) -> tuple[Labels, Labels]:
    """Part one file in two; all instances of a picture go to the same side.

    Raises:
        DataError: there are too few pictures to have both.
    """
    images = sorted({instance.image for instance in labels.instances})
    random.Random(seed).shuffle(images)
    count = max(1, round(len(images) * val_share))
    if len(images) < 2 or count >= len(images):
        raise DataError(
            f"{len(images)} pictures cannot be parted into training and validation",
            str(labels.source),
            "add pictures, or name a validation split of its own",
        )
    return _parted(labels, set(images[:count]).__contains__)


def _parted(labels: Labels, is_val: Callable[[str], bool]) -> tuple[Labels, Labels]:
    """Both sides. What the reader skipped belongs to none; it is counted with training."""
    train = [instance for instance in labels.instances if not is_val(instance.image)]
    val = [instance for instance in labels.instances if is_val(instance.image)]
    return replace(labels, instances=train), replace(labels, instances=val, skipped=[])


def split_by_folder(
    labels: Labels, *, val_share: float, seed: int = 0, named: Sequence[str] = ()
) -> tuple[Labels, Labels]:
    """Part one file in two; pictures of one folder, which are frames of one video, stay together.

    The folders `named` are kept for validation, or else some with about `val_share` of the
    pictures. With one folder only, its pictures are parted, and a note says so.

    Raises:
        DataError: nothing is there to part, or one side would be left empty.
    """
    if not labels.instances:
        raise nothing_left(labels, labels.skipped)
    pictures = Counter(map(_folder, {instance.image for instance in labels.instances}))
    if len(pictures) == 1 and not named:
        return _of_one_video(labels, val_share, seed)
    kept = set(named) if named else _drawn(pictures, val_share, seed)
    _check_kept(kept, pictures, labels)
    count, total = sum(pictures[folder] for folder in kept), pictures.total()
    note = (
        f"validation is {len(kept):,} of {len(pictures):,} videos, {count:,} of {total:,} frames: "
        f"{shortened(sorted(kept))}"
    )
    train, val = _parted(labels, lambda image: _folder(image) in kept)
    return train, replace(val, notes=[note])


def _of_one_video(labels: Labels, val_share: float, seed: int) -> tuple[Labels, Labels]:
    train, val = split_by_picture(labels, val_share=val_share, seed=seed)
    note = (
        f"all frames are of one video, {_folder(labels.instances[0].image)}: those kept for "
        "validation look like those trained on, and scores say little of other videos"
    )
    return train, replace(val, notes=[note])


def _check_kept(kept: Collection[str], pictures: Mapping[str, int], labels: Labels) -> None:
    if lost := sorted(set(kept) - pictures.keys()):
        raise DataError(
            f"no labelled frames of the videos {shortened(lost)}",
            f"{labels.source}: there are {shortened(sorted(pictures), most=10)}",
            "name some of these, or leave --val-videos out",
        )
    if len(kept) == len(pictures):
        raise DataError(
            "every video is kept for validation, and none is left to learn from",
            f"{labels.source}: {shortened(sorted(kept))}",
            "keep fewer: --val-videos names them, --val-share is a share of the frames",
        )


def _folder(image: str) -> str:
    return image.rpartition("/")[0]


def _drawn(pictures: Mapping[str, int], val_share: float, seed: int) -> set[str]:
    """Folders in a drawn order, while each brings nearer to the share: a few may be of any size."""
    order = sorted(pictures)
    random.Random(seed).shuffle(order)
    wanted, count, drawn = val_share * sum(pictures.values()), 0, set()
    for folder in order:
        if abs(count + pictures[folder] - wanted) < abs(count - wanted):
            drawn.add(folder)
            count += pictures[folder]
    return drawn or {min(order, key=pictures.__getitem__)}


def shared_pictures(train: Source, val: Source) -> list[str]:
    """Names of files that are in both splits: a score on them says little."""
    if _real(train.images) != _real(val.images):
        return []
    return sorted(
        {i.image for i in train.labels.instances} & {i.image for i in val.labels.instances}
    )


def _real(images: Place) -> Place:
    root = open_folder(images, "--images").root
    return root.resolve() if isinstance(root, Path) else root
