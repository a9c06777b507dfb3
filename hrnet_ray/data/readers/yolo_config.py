"""What a YOLO-pose data.yaml says: which keypoints there are, their mirror, where pictures lie."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrnet_ray.data import pictures
from hrnet_ray.data.labels import shown
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.strict_yaml import read_yaml

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
    match entries.get("kpt_shape"):
        case [int(keypoints), (2 | 3) as numbers] if 0 < keypoints <= MOST_KEYPOINTS:
            return Shape(keypoints, numbers)
        case other:
            raise DataError(
                f"kpt_shape is {shown(other)} where two numbers are wanted",
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
    names = _names(entries, shape)
    if given is None and names is None:
        names = tuple(f"point_{at + 1}" for at in range(shape.keypoints))
        pairs = [(names[at], names[to]) for at, to in enumerate(flip or ()) if at < to]
        notes.append(
            f"the keypoints have no names: they are called {names[0]} to {names[-1]} "
            "(name them in a --skeleton, in the order of the labels)"
        )
        if not pairs:
            notes.append(
                "nothing tells left from right: a mirrored picture teaches a left as a right "
                "(name them in a --skeleton, or give the data.yaml a flip_idx)"
            )
        given = Skeleton(name=config.stem, keypoints=names, pairs=tuple(pairs))
    skeleton = given or Skeleton(name=config.stem, keypoints=names or ())
    if len(skeleton) != shape.keypoints:
        raise DataError(
            f"{shape.keypoints} keypoints where {skeleton.name!r} has {len(skeleton)}",
            f"{config}: kpt_shape",
            "give another --skeleton",
        )
    if flip is None:
        return skeleton, notes
    if flip == tuple(range(len(flip))) != skeleton.flip_order:
        notes.append("flip_idx exchanges nothing; left and right change places by their names here")
    elif flip != skeleton.flip_order:
        at = next(k for k, to in enumerate(flip) if to != skeleton.flip_order[k])
        theirs, ours = skeleton.keypoints[flip[at]], skeleton.keypoints[skeleton.flip_order[at]]
        raise DataError(
            f"flip_idx mirrors {skeleton.keypoints[at]!r} to {theirs!r}, the names to {ours!r}",
            str(config),
            "correct flip_idx or the names; `pairs` of a --skeleton tells what names do not",
        )
    return skeleton, notes


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


def _names(entries: Entries, shape: Shape) -> tuple[str, ...] | None:
    """`kpt_names: {0: [nose, ...]}`, which newer files have, if it names them all."""
    names = entries.get("kpt_names")
    if isinstance(names, dict) and names:
        names = next(iter(names.values()))
    if not isinstance(names, list) or len(names) != shape.keypoints:
        return None
    return tuple(map(str, names))


def categories_of(
    entries: Entries, classes: Iterable[int], skeleton: Skeleton
) -> list[dict[str, Any]]:
    """The classes that are used, in COCO's form: ids count from 1, all have the same keypoints."""
    names = entries.get("names")
    called = dict(enumerate(names)) if isinstance(names, list) else names
    called = called if isinstance(called, dict) else {}
    return [
        {
            "id": class_ + 1,
            "name": str(called.get(class_, class_)),
            "keypoints": list(skeleton.keypoints),
            "skeleton": [],
        }
        for class_ in sorted(classes)
    ]


def pictures_of(entries: Entries, split: str, config: Path) -> list[Path]:
    """All pictures of a split, in the order of their names.

    Raises:
        DataError: there are none, or the folder is not there.
    """
    value = entries[split]
    named = value if isinstance(value, list) else [value]
    found: set[Path] = set()
    for name in named:
        place = _place(entries, name, split, config)
        found |= set(_listed(place) if place.suffix == ".txt" else _below(place))
    if not found:
        raise DataError(
            f"no pictures for {split}", f"{config}: {split}: {shown(value)}", "correct the folder"
        )
    return sorted(found)


def _place(entries: Entries, name: object, split: str, config: Path) -> Path:
    """Where a folder or a list of pictures lies: from `path`, or from the data.yaml itself.

    Roboflow writes `../train/images` for what lies beside its data.yaml.
    """
    if isinstance(name, str) and name:
        here, path = config.absolute().parent, entries.get("path")
        roots = [here / path, here] if isinstance(path, str) else [here]
        for root in roots:
            for start in (name, name.removeprefix("../")):
                if (found := Path(os.path.normpath(root / start))).exists():
                    return found
    raise DataError(
        f"the pictures for {split} are not there",
        f"{config}: {split}: {shown(name)}",
        "correct `path` and the folder; both may be relative to the data.yaml",
    )


def _below(folder: Path) -> Iterator[Path]:
    for at, _, files in os.walk(folder):
        yield from (Path(at, name) for name in files if _is_picture(name))


def _listed(path: Path) -> Iterator[Path]:
    """The pictures that a text file names, from its own folder on."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if _is_picture(line.strip()):
            yield Path(os.path.normpath(path.parent / line.strip()))


def _is_picture(name: str) -> bool:
    return name.lower().endswith(pictures.PICTURE_ENDINGS)
