"""What a YOLO-pose data.yaml says of the keypoints: how many, their names, their mirror."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrnet_ray.data.annotations import shown
from hrnet_ray.errors import DataError
from hrnet_ray.safe_yaml import read_yaml
from hrnet_ray.skeletons import Skeleton, from_dict

MOST_KEYPOINTS = 1000

Entries = Mapping[str, Any]


def load(config: Path) -> Entries:
    """The entries of a data.yaml.

    Raises:
        DataError: it is none.
    """
    return read_yaml(config, fix="give the data.yaml of a pose data set, with `kpt_shape`")


@dataclass(frozen=True)
class Shape:
    """How many keypoints there are, and how many numbers each has."""

    keypoints: int
    numbers: int


def shape_of(entries: Entries, config: Path) -> Shape:
    """`kpt_shape: [17, 3]`."""
    given = entries.get("kpt_shape")
    if isinstance(given, list) and [type(number) for number in given] == [int, int]:
        shape = Shape(*given)
        if 0 < shape.keypoints <= MOST_KEYPOINTS and shape.numbers in (2, 3):
            return shape
    raise DataError(
        f"kpt_shape is {shown(given)} where two numbers are wanted",
        str(config),
        "write `kpt_shape: [17, 3]`: keypoints, and 2 or 3 numbers for each",
    )


def skeleton_of(
    entries: Entries, shape: Shape, given: Skeleton | None, config: Path
) -> tuple[Skeleton, list[str]]:
    """The keypoints by their names, or by their places; `flip_idx` must say the same of them.

    Raises:
        DataError: it does not, or their number is another one.
    """
    flip, notes = _flip_order(entries, shape, config), []
    named = next(iter(names_of(entries, shape, config).values()), None)
    skeleton = given or _told(named, shape, flip, config)
    if len(skeleton) != shape.keypoints:
        raise DataError(
            f"{shape.keypoints} keypoints where {skeleton.name!r} has {len(skeleton)}",
            f"{config}: kpt_shape",
            "give another --skeleton",
        )
    same = tuple(range(len(skeleton)))
    if not given and not named:
        notes.append(
            "the keypoints have no names: they are called point_1, point_2 and so on "
            "(name them in a --skeleton, in the order of the labels)"
        )
    if not given and skeleton.flip_order == same:
        notes.append(
            "nothing tells left from right: a mirrored picture teaches a left as a right "
            "(name them in a --skeleton, or give the data.yaml a flip_idx)"
        )
    elif flip == same != skeleton.flip_order:
        notes.append("flip_idx exchanges nothing; left and right change places by their names here")
    elif flip and flip != skeleton.flip_order:
        at = next(k for k, to in enumerate(flip) if to != skeleton.flip_order[k])
        theirs, ours = skeleton.keypoints[flip[at]], skeleton.keypoints[skeleton.flip_order[at]]
        raise DataError(
            f"flip_idx mirrors {skeleton.keypoints[at]!r} to {theirs!r}, the names to {ours!r}",
            str(config),
            "correct flip_idx or the names; `pairs` of a --skeleton tells what names do not",
        )
    return skeleton, notes


def _told(
    named: Sequence[str] | None, shape: Shape, flip: Sequence[int] | None, config: Path
) -> Skeleton:
    """The skeleton that the data.yaml tells: names that have no sides take them from `flip_idx`."""
    keypoints = list(named or (f"point_{at + 1}" for at in range(shape.keypoints)))
    values: dict[str, Any] = {"name": config.stem, "keypoints": keypoints}
    skeleton = from_dict(values, where=str(config))
    if flip is None or skeleton.flip_order != tuple(range(len(skeleton))):
        return skeleton
    pairs = [[keypoints[at], keypoints[to]] for at, to in enumerate(flip) if at < to]
    return from_dict(values | {"pairs": pairs}, where=str(config))


def _flip_order(entries: Entries, shape: Shape, config: Path) -> tuple[int, ...] | None:
    flip = entries.get("flip_idx")
    if not flip:
        return None
    places = list(range(shape.keypoints))
    if not isinstance(flip, list) or any(type(to) is not int for to in flip):
        back = None
    else:
        back = [flip[to] for to in flip] if sorted(flip) == places else None
    if back != places:  # mirrored twice, everything is where it was
        raise DataError(
            f"flip_idx is {shown(flip)}, which is no mirror of {shape.keypoints} keypoints",
            str(config),
            "give each keypoint's place in the mirror, its own where it is in the middle",
        )
    return tuple(flip)


def names_of(entries: Entries, shape: Shape, config: Path) -> dict[int | None, tuple[str, ...]]:
    """Keypoints by class, as newer files name them; under None for all classes.

    `kpt_names: {0: [nose, tail]}`, or `[nose, tail]`, or `{0: nose, 1: tail}`.

    Raises:
        DataError: they are of no such form, or of another number.
    """
    given = entries.get("kpt_names")
    if not given:
        return {}
    by_class: dict[Any, Any] = {None: given}
    if isinstance(given, dict):
        one_by_one = all(isinstance(name, str) for name in given.values())
        by_class = {None: [given[key] for key in sorted(given)]} if one_by_one else given
    for class_, names in by_class.items():
        whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not whole or len(names) != shape.keypoints or type(class_) not in (int, type(None)):
            raise DataError(
                f"kpt_names is {shown(names)} where {shape.keypoints} names are wanted",
                str(config),
                "write `kpt_names: {0: [nose, tail]}`, with quotes around what is no word",
            )
    return {class_: tuple(names) for class_, names in by_class.items()}


def categories_of(
    entries: Entries, classes: Iterable[int], skeleton: Skeleton, shape: Shape, config: Path
) -> list[dict[str, Any]]:
    """The classes that are used, in COCO's form: ids count from 1.

    Their keypoints are called as the data.yaml calls them, so that the reader of COCO's form sees a
    --skeleton in another order.
    """
    names, told = entries.get("names"), names_of(entries, shape, config)
    called = dict(enumerate(names)) if isinstance(names, list) else names
    called = called if isinstance(called, dict) else {}
    return [
        {
            "id": class_ + 1,
            "name": str(called.get(class_, class_)),
            "keypoints": list(told.get(class_) or told.get(None) or skeleton.keypoints),
            "skeleton": [],
        }
        for class_ in sorted(classes)
    ]
