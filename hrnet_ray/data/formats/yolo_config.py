"""Read the keypoints of a YOLO-pose data.yaml: number, names, flip order."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrnet_ray.data.annotations import format_value
from hrnet_ray.errors import DataError
from hrnet_ray.safe_yaml import load_safe_yaml
from hrnet_ray.skeletons import Skeleton, from_dict

MAX_KEYPOINTS = 1000

DataYamlEntries = Mapping[str, Any]


def load_data_yaml(config: Path) -> DataYamlEntries:
    """The entries of a data.yaml.

    Raises:
        DataError: it is none.
    """
    return load_safe_yaml(config, fix="give the data.yaml of a pose data set, with `kpt_shape`")


@dataclass(frozen=True)
class KeypointShape:
    """How many keypoints there are, and how many numbers each has."""

    num_keypoints: int
    values_per_keypoint: int


def parse_keypoint_shape(entries: DataYamlEntries, config: Path) -> KeypointShape:
    """`kpt_shape: [17, 3]`."""
    given = entries.get("kpt_shape")
    if isinstance(given, list) and [type(number) for number in given] == [int, int]:
        shape = KeypointShape(*given)
        if 0 < shape.num_keypoints <= MAX_KEYPOINTS and shape.values_per_keypoint in (2, 3):
            return shape
    raise DataError(
        f"kpt_shape is {format_value(given)} where two numbers are wanted",
        str(config),
        "write `kpt_shape: [17, 3]`: keypoints, and 2 or 3 numbers for each",
    )


def build_skeleton_from_data_yaml(
    entries: DataYamlEntries, shape: KeypointShape, given_skeleton: Skeleton | None, config: Path
) -> tuple[Skeleton, list[str]]:
    """The keypoints by name or by index; `flip_idx` must agree with their sides.

    Raises:
        DataError: it does not, or their number is another one.
    """
    flip, notes = _parse_flip_order(entries, shape, config), []
    named = next(iter(parse_keypoint_names(entries, shape, config).values()), None)
    skeleton = given_skeleton or _build_declared_skeleton(named, shape, flip, config)
    if len(skeleton) != shape.num_keypoints:
        raise DataError(
            f"{shape.num_keypoints} keypoints where {skeleton.name!r} has {len(skeleton)}",
            f"{config}: kpt_shape",
            "give another --skeleton",
        )
    same = tuple(range(len(skeleton)))
    if not given_skeleton and not named:
        notes.append(
            "the keypoints have no names: they are called point_1, point_2 and so on "
            "(name them in a --skeleton, in the order of the labels)"
        )
    if not given_skeleton and skeleton.flip_order == same:
        notes.append(
            "nothing tells left from right: a mirrored image teaches a left as a right "
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


def _build_declared_skeleton(
    names: Sequence[str] | None,
    shape: KeypointShape,
    flip_order: Sequence[int] | None,
    config: Path,
) -> Skeleton:
    """Build the skeleton of the data.yaml: names without sides take them from `flip_idx`."""
    keypoints = list(names or (f"point_{at + 1}" for at in range(shape.num_keypoints)))
    values: dict[str, Any] = {"name": config.stem, "keypoints": keypoints}
    skeleton = from_dict(values, where=str(config))
    if flip_order is None or skeleton.flip_order != tuple(range(len(skeleton))):
        return skeleton
    pairs = [[keypoints[at], keypoints[to]] for at, to in enumerate(flip_order) if at < to]
    return from_dict(values | {"pairs": pairs}, where=str(config))


def _parse_flip_order(entries: DataYamlEntries, shape: KeypointShape, config: Path) -> tuple[int, ...] | None:
    flip = entries.get("flip_idx")
    if not flip:
        return None
    places = list(range(shape.num_keypoints))
    if not isinstance(flip, list) or any(type(to) is not int for to in flip):
        back = None
    else:
        back = [flip[to] for to in flip] if sorted(flip) == places else None
    if back != places:  # mirrored twice, everything is where it was
        raise DataError(
            f"flip_idx is {format_value(flip)}, which is no mirror of {shape.num_keypoints} keypoints",
            str(config),
            "give each keypoint's place in the mirror, its own where it is in the middle",
        )
    return tuple(flip)


def parse_keypoint_names(
    entries: DataYamlEntries, shape: KeypointShape, config: Path
) -> dict[int | None, tuple[str, ...]]:
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
        if not whole or len(names) != shape.num_keypoints or type(class_) not in (int, type(None)):
            raise DataError(
                f"kpt_names is {format_value(names)} where {shape.num_keypoints} names are wanted",
                str(config),
                "write `kpt_names: {0: [nose, tail]}`, with quotes around what is no word",
            )
    return {class_: tuple(names) for class_, names in by_class.items()}


def build_coco_categories(
    entries: DataYamlEntries,
    class_ids: Iterable[int],
    skeleton: Skeleton,
    shape: KeypointShape,
    config: Path,
) -> list[dict[str, Any]]:
    """The classes that are used, in COCO's form: ids count from 1.

    Their keypoints are called as the data.yaml calls them, so that the reader of COCO's form sees a
    --skeleton in another order.
    """
    names, told = entries.get("names"), parse_keypoint_names(entries, shape, config)
    called = dict(enumerate(names)) if isinstance(names, list) else names
    called = called if isinstance(called, dict) else {}
    return [
        {
            "id": class_ + 1,
            "name": str(called.get(class_, class_)),
            "keypoints": list(told.get(class_) or told.get(None) or skeleton.keypoints),
            "skeleton": [],
        }
        for class_ in sorted(class_ids)
    ]
