"""The original MPII release, parted into training and validation.

Its test images come without keypoints, so validation is a part of its training images: the
HRNet authors' part where their `valid.json` is given, else whole videos drawn by a seed. Many
images are frames of one video, and look alike.
"""

import random
from collections import defaultdict
from pathlib import Path

import numpy as np

from hrnet_ray.data.annotations import AnnotationSet, PoseInstance, SkippedItem
from hrnet_ray.data.formats.mpii import compare_visibility, read_mpii
from hrnet_ray.data.formats.mpii_release_records import MpiiPerson, read_release_records
from hrnet_ray.errors import DataError, format_list
from hrnet_ray.skeletons import MPII

_MATCH_TOLERANCE_PX = 1.0  # the JSON rounds center and scale; no other person is this near


def read_mpii_release(
    path: Path, *, valid_json: Path | None = None, val_fraction: float = 0.1, seed: int = 0
) -> tuple[AnnotationSet, AnnotationSet]:
    """Read `mpii_human_pose_v1_u12_1.mat` as training and validation.

    With `valid`, the HRNet authors' `valid.json`, validation is the people it names, in its order
    (so `gt_valid.mat` belongs to it, row by row); anyone else in these images goes to neither
    side. Without it, whole videos with about `val_share` of the images are drawn by `seed`.

    What was skipped is with training, and `read` of both together counts people of training
    images, and an image as one item where it holds no person to use: each test image.

    Raises:
        DataError: a file of another form, without people that can be used or with too few videos
            to split; a `valid` file of which no person is found.
    """
    people, skipped = read_release_records(path)
    if valid_json is None:
        val, notes = _sample_val_videos(people, path, val_fraction, seed)
        held_out = {person.video for person in val}
        train = [person for person in people if person.video not in held_out]
    else:
        named = read_mpii(valid_json).instances
        val, notes = _match_valid_records(people, named, path, valid_json)
        train, left_out = _split_remaining_people(people, val, {record.image for record in named})
        skipped = skipped + left_out
    return (
        AnnotationSet(source=path, skeleton=MPII, instances=_extract_instances(train), skipped=skipped),
        AnnotationSet(
            source=path,
            skeleton=MPII,
            instances=_extract_instances(val),
            notes=notes + _describe_missing_heads(val),
        ),
    )


def _extract_instances(people: list[MpiiPerson]) -> list[PoseInstance]:
    return [person.instance for person in people]


def _sample_val_videos(
    people: list[MpiiPerson], path: Path, val_fraction: float, seed: int
) -> tuple[list[MpiiPerson], list[str]]:
    """Draw whole videos until they have their share of the images."""
    pictures = defaultdict(set)
    for person in people:
        pictures[person.video].add(person.instance.image)
    videos = sorted(pictures)
    random.Random(seed).shuffle(videos)
    wanted = val_fraction * sum(map(len, pictures.values()))
    drawn: set[str] = set()
    while not drawn or sum(len(pictures[video]) for video in drawn) < wanted:
        if len(drawn) + 1 >= len(videos):
            raise DataError(
                f"{len(videos):,} videos cannot be parted into training and validation",
                f"{path}: {val_fraction:g} of the images are wanted for validation",
                "ask for a smaller part, or give the authors' valid.json",
            )
        drawn.add(videos[len(drawn)])
    note = (
        f"{path.name}: validation is {len(drawn):,} videos drawn by seed {seed}, so PCKh cannot be "
        "compared with published figures, which are of the authors' valid.json"
    )
    return [person for person in people if person.video in drawn], [note]


def _match_valid_records(
    people: list[MpiiPerson], records: list[PoseInstance], path: Path, valid_json: Path
) -> tuple[list[MpiiPerson], list[str]]:
    """Find each record of `valid.json` in the release: the same image, place and size."""
    free: dict[str, list[MpiiPerson]] = defaultdict(list)
    for person in people:
        free[person.instance.image].append(person)
    found, same, lost = [], [], []
    for record in records:
        near = min(
            free[record.image],
            key=lambda one: _compute_box_distance(one.instance, record),
            default=None,
        )
        if near is None or _compute_box_distance(near.instance, record) > _MATCH_TOLERANCE_PX:
            lost.append(f"{valid_json.name}: [{record.id}] ({record.image})")
            continue
        free[record.image].remove(near)
        found.append(near)
        same.append(record)
    if not found:
        raise DataError(
            f"nobody of {len(records):,} records is in the release",
            f"{valid_json} and {path}",
            "give valid.json of the HRNet authors, and the release that it was made from",
        )
    notes = compare_visibility(path.name, _extract_instances(found), valid_json.name, same)
    if lost:
        notes.append(
            f"{len(lost):,} of {len(records):,} records are not in {path.name}, so PCKh is not "
            f"the published figure: {format_list(lost)}"
        )
    return found, notes


def _compute_box_distance(instance: PoseInstance, other: PoseInstance) -> float:
    """The largest difference of two square boxes, in centre or side."""
    x, y, side, _ = np.subtract(instance.box_xywh, other.box_xywh)
    return float(np.abs([x + side / 2, y + side / 2, side]).max())


def _split_remaining_people(
    people: list[MpiiPerson], val_people: list[MpiiPerson], val_images: set[str]
) -> tuple[list[MpiiPerson], list[SkippedItem]]:
    """Who may be trained on, and who is in an image of validation without being asked for."""
    asked_for = {person.instance.id for person in val_people}
    train, left_out = [], []
    for person in people:
        if person.instance.image not in val_images:
            train.append(person)
        elif person.instance.id not in asked_for:
            left_out.append(SkippedItem(person.item, "in a validation image"))
    return train, left_out


def _describe_missing_heads(people: list[MpiiPerson]) -> list[str]:
    without = sum(np.isnan(person.instance.head_size) for person in people)
    return [f"{without:,} people have no head box, so PCKh leaves them out"] if without else []
