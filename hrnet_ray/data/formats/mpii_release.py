"""The original MPII release, parted into training and validation.

Its test pictures come without keypoints, so validation is a part of its training pictures: the
HRNet authors' part where their `valid.json` is given, else whole videos drawn by a seed. Many
pictures are frames of one video, and look alike.
"""

import random
from collections import defaultdict
from pathlib import Path

import numpy as np

from hrnet_ray.data.annotations import Instance, Labels, Skipped
from hrnet_ray.data.formats.mpii import read_mpii, visibility_notes
from hrnet_ray.data.formats.mpii_release_records import Person, read_people
from hrnet_ray.errors import DataError, shortened
from hrnet_ray.skeletons import MPII

_NEAR_PX = 1.0  # the JSON rounds centre and scale; nobody else is this near


def read_mpii_release(
    path: Path, *, valid: Path | None = None, val_share: float = 0.1, seed: int = 0
) -> tuple[Labels, Labels]:
    """Read `mpii_human_pose_v1_u12_1.mat` as training and validation.

    With `valid`, the HRNet authors' `valid.json`, validation is the people it names, in its order
    (so `gt_valid.mat` belongs to it, row by row); anyone else in these pictures goes to neither
    side. Without it, whole videos with about `val_share` of the pictures are drawn by `seed`.

    What was skipped is with training, and `read` of both together counts people of training
    pictures, and a picture as one where nobody in it is looked at: each test picture.

    Raises:
        DataError: a file of another form, without people that can be used or with too few videos
            to part; a `valid` of which nobody is found.
    """
    people, skipped = read_people(path)
    if valid is None:
        val, notes = _drawn(people, path, val_share, seed)
        held_out = {person.video for person in val}
        train = [person for person in people if person.video not in held_out]
    else:
        named = read_mpii(valid).instances
        val, notes = _named(people, named, path, valid)
        train, left_out = _elsewhere(people, val, {record.image for record in named})
        skipped = skipped + left_out
    return (
        Labels(source=path, skeleton=MPII, instances=_instances(train), skipped=skipped),
        Labels(
            source=path, skeleton=MPII, instances=_instances(val), notes=notes + _head_notes(val)
        ),
    )


def _instances(people: list[Person]) -> list[Instance]:
    return [person.instance for person in people]


def _drawn(
    people: list[Person], path: Path, val_share: float, seed: int
) -> tuple[list[Person], list[str]]:
    """Draw whole videos until they have their share of the pictures."""
    pictures = defaultdict(set)
    for person in people:
        pictures[person.video].add(person.instance.image)
    videos = sorted(pictures)
    random.Random(seed).shuffle(videos)
    wanted = val_share * sum(map(len, pictures.values()))
    drawn: set[str] = set()
    while not drawn or sum(len(pictures[video]) for video in drawn) < wanted:
        if len(drawn) + 1 >= len(videos):
            raise DataError(
                f"{len(videos):,} videos cannot be parted into training and validation",
                f"{path}: {val_share:g} of the pictures are wanted for validation",
                "ask for a smaller part, or give the authors' valid.json",
            )
        drawn.add(videos[len(drawn)])
    note = (
        f"{path.name}: validation is {len(drawn):,} videos drawn by seed {seed}, so PCKh cannot be "
        "compared with published figures, which are of the authors' valid.json"
    )
    return [person for person in people if person.video in drawn], [note]


def _named(
    people: list[Person], records: list[Instance], path: Path, valid: Path
) -> tuple[list[Person], list[str]]:
    """Find each record of `valid.json` in the release: the same picture, place and size."""
    free: dict[str, list[Person]] = defaultdict(list)
    for person in people:
        free[person.instance.image].append(person)
    found, same, lost = [], [], []
    for record in records:
        near = min(free[record.image], key=lambda one: _apart(one.instance, record), default=None)
        if near is None or _apart(near.instance, record) > _NEAR_PX:
            lost.append(f"{valid.name}: [{record.id}] ({record.image})")
            continue
        free[record.image].remove(near)
        found.append(near)
        same.append(record)
    if not found:
        raise DataError(
            f"nobody of {len(records):,} records is in the release",
            f"{valid} and {path}",
            "give valid.json of the HRNet authors, and the release that it was made from",
        )
    notes = visibility_notes(path.name, _instances(found), valid.name, same)
    if lost:
        notes.append(
            f"{len(lost):,} of {len(records):,} records are not in {path.name}, so PCKh is not "
            f"the published figure: {shortened(lost)}"
        )
    return found, notes


def _apart(one: Instance, other: Instance) -> float:
    """The largest difference of two square boxes, in centre or side."""
    x, y, side, _ = np.subtract(one.box_xywh, other.box_xywh)
    return float(np.abs([x + side / 2, y + side / 2, side]).max())


def _elsewhere(
    people: list[Person], val: list[Person], pictures: set[str]
) -> tuple[list[Person], list[Skipped]]:
    """Who may be trained on, and who is in a picture of validation without being asked for."""
    asked_for = {person.instance.id for person in val}
    train, left_out = [], []
    for person in people:
        if person.instance.image not in pictures:
            train.append(person)
        elif person.instance.id not in asked_for:
            left_out.append(Skipped(person.item, "in a validation picture"))
    return train, left_out


def _head_notes(people: list[Person]) -> list[str]:
    without = sum(np.isnan(person.instance.head_size) for person in people)
    return [f"{without:,} people have no head box, so PCKh leaves them out"] if without else []
