"""Where the splits come from: labels with their images; one file parted in two."""

import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hrnet_ray.data.annotations import AnnotationSet, SkippedItem, SkipReason
from hrnet_ray.data.storage import FileStamp, PathOrUri, open_storage_dir
from hrnet_ray.errors import DataError, format_list
from hrnet_ray.skeletons import Skeleton


@dataclass(frozen=True)
class SplitSource:
    """Where one split comes from."""

    labels: AnnotationSet
    images: PathOrUri
    """Folder that the names of the images start from."""


def collect_image_stamps(source: SplitSource, *, skip_missing: bool = False) -> dict[str, FileStamp]:
    """Size and time of every image that is there; without `skip_missing` all must be.

    Raises:
        DataError: the folder or some images are missing; the first few are named.
        ClusterError: the storage does not answer.
    """
    images = open_storage_dir(source.images, "--images")
    images.check_exists("--images")
    stamps = images.get_image_stamps({instance.image for instance in source.labels.instances})
    missing = find_missing_images(source, stamps)
    if missing and not skip_missing:
        raise _make_missing_images_error(missing, source)
    return stamps


def find_missing_images(source: SplitSource, stamps: Mapping[str, FileStamp]) -> list[SkippedItem]:
    """The instances whose image is not there."""
    return [
        SkippedItem(instance.image, SkipReason.MISSING_IMAGE, f"instance {instance.id}")
        for instance in source.labels.instances
        if instance.image not in stamps
    ]


def _make_missing_images_error(missing: list[SkippedItem], source: SplitSource) -> DataError:
    names = sorted({skipped.item for skipped in missing})
    named = {instance.image for instance in source.labels.instances}
    return DataError(
        f"{len(names):,} of {len(named):,} images are not there",
        f"{source.labels.source.name}: {format_list(names)} (below {source.images})",
        "check --images, or add --skip-missing to leave them out (listed in skipped.csv)",
    )


def make_corrupt_images_error(corrupt: Sequence[SkippedItem], source: SplitSource) -> DataError:
    """Make the error that names the images that cannot be decoded."""
    names = sorted({f"{skipped.item} ({skipped.reason}: {skipped.detail})" for skipped in corrupt})
    return DataError(
        f"{len(names):,} images cannot be read",
        f"below {source.images}: {format_list(names)}",
        "replace them, or add --skip-corrupt to leave them out (listed in skipped.csv)",
    )


def make_empty_split_error(labels: AnnotationSet, skipped: Sequence[SkippedItem]) -> DataError:
    """A split without rows, as an error that counts the reasons."""
    reasons = Counter(str(thing.reason) for thing in skipped).most_common()
    return DataError(
        "nothing to learn or score",
        f"{labels.source}: {labels.num_read:,} instances read, none can be used "
        f"({', '.join(f'{count:,} {reason}' for reason, count in reasons) or 'it is empty'})",
        "give a file with labelled keypoints, and the folder with its images",
    )


def get_common_skeleton(sources: Mapping[str, SplitSource]) -> Skeleton:
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


def split_by_image(labels: AnnotationSet, *, val_fraction: float, seed: int = 0) -> tuple[AnnotationSet, AnnotationSet]:
    """Part one file in two; all instances of an image go to the same side.

    Raises:
        DataError: there are too few images to have both.
    """
    images = sorted({instance.image for instance in labels.instances})
    random.Random(seed).shuffle(images)
    count = max(1, round(len(images) * val_fraction))
    if len(images) < 2 or count >= len(images):
        raise DataError(
            f"{len(images)} images cannot be parted into training and validation",
            str(labels.source),
            "add images, or name a validation split of its own",
        )
    return _split_instances(labels, set(images[:count]).__contains__)


def _split_instances(labels: AnnotationSet, is_val: Callable[[str], bool]) -> tuple[AnnotationSet, AnnotationSet]:
    """Both sides. What the reader skipped belongs to none; it is counted with training."""
    train = [instance for instance in labels.instances if not is_val(instance.image)]
    val = [instance for instance in labels.instances if is_val(instance.image)]
    return replace(labels, instances=train), replace(labels, instances=val, skipped=[])


def split_by_video(
    labels: AnnotationSet, *, val_fraction: float, seed: int = 0, val_videos: Sequence[str] = ()
) -> tuple[AnnotationSet, AnnotationSet]:
    """Part one file in two; images of one folder, which are frames of one video, stay together.

    The folders `named` are kept for validation, or else some with about `val_share` of the
    images. With one folder only, its images are split, and a note reports it.

    Raises:
        DataError: nothing is there to part, or one side would be left empty.
    """
    if not labels.instances:
        raise make_empty_split_error(labels, labels.skipped)
    pictures = Counter(map(_get_video_dir, {instance.image for instance in labels.instances}))
    if len(pictures) == 1 and not val_videos:
        return _split_single_video(labels, val_fraction, seed)
    kept = set(val_videos) if val_videos else _sample_val_videos(pictures, val_fraction, seed)
    _check_val_videos(kept, pictures, labels)
    count, total = sum(pictures[folder] for folder in kept), pictures.total()
    note = (
        f"validation is {len(kept):,} of {len(pictures):,} videos, {count:,} of {total:,} frames: "
        f"{format_list(sorted(kept))}"
    )
    train, val = _split_instances(labels, lambda image: _get_video_dir(image) in kept)
    return train, replace(val, notes=[note])


def _split_single_video(labels: AnnotationSet, val_fraction: float, seed: int) -> tuple[AnnotationSet, AnnotationSet]:
    train, val = split_by_image(labels, val_fraction=val_fraction, seed=seed)
    note = (
        f"all frames are of one video, {_get_video_dir(labels.instances[0].image)}: those kept for "
        "validation look like those trained on, and scores say little of other videos"
    )
    return train, replace(val, notes=[note])


def _check_val_videos(val_videos: Collection[str], images_per_video: Mapping[str, int], labels: AnnotationSet) -> None:
    if lost := sorted(set(val_videos) - images_per_video.keys()):
        raise DataError(
            f"no labelled frames of the videos {format_list(lost)}",
            f"{labels.source}: there are {format_list(sorted(images_per_video), max_items=10)}",
            "name some of these, or leave --val-videos out",
        )
    if len(val_videos) == len(images_per_video):
        raise DataError(
            "every video is kept for validation, and none is left to learn from",
            f"{labels.source}: {format_list(sorted(val_videos))}",
            "keep fewer: --val-videos names them, --val-fraction is a share of the frames",
        )


def _get_video_dir(image: str) -> str:
    return image.rpartition("/")[0]


def _sample_val_videos(images_per_video: Mapping[str, int], val_fraction: float, seed: int) -> set[str]:
    """Folders in a drawn order, while each brings nearer to the share: a few may be of any size."""
    order = sorted(images_per_video)
    random.Random(seed).shuffle(order)
    wanted, count, drawn = val_fraction * sum(images_per_video.values()), 0, set()
    for folder in order:
        if abs(count + images_per_video[folder] - wanted) < abs(count - wanted):
            drawn.add(folder)
            count += images_per_video[folder]
    return drawn or {min(order, key=images_per_video.__getitem__)}


def find_shared_images(train: SplitSource, val: SplitSource) -> list[str]:
    """Names of files that are in both splits: a score on them means little."""
    if _resolve_images_dir(train.images) != _resolve_images_dir(val.images):
        return []
    return sorted({i.image for i in train.labels.instances} & {i.image for i in val.labels.instances})


def _resolve_images_dir(images: PathOrUri) -> PathOrUri:
    root = open_storage_dir(images, "--images").root
    return root.resolve() if isinstance(root, Path) else root
