"""Where the splits come from: labels with their pictures; one file parted in two."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hrnet_ray.data.labels import Labels, Reason, Skipped
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
            "add pictures, or name both files: --annotations and --val-annotations",
        )
    val = set(images[:count])
    # What the reader skipped belongs to no side; it is counted with training.
    return (
        replace(labels, instances=[i for i in labels.instances if i.image not in val]),
        replace(labels, instances=[i for i in labels.instances if i.image in val], skipped=[]),
    )


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
