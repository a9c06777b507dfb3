"""The skeletons we know: which keypoints a pose has, and how they relate.

A skeleton is data. A new animal is a COCO category or a few lines of YAML, never new code.
Left and right follow from the names: `left_knee` mirrors to `right_knee`.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from hrnet_ray.errors import DataError
from hrnet_ray.safe_yaml import load_safe_yaml

DEFAULT_OKS_SIGMA = 0.05
"""For a skeleton without `oks_sigmas`: about the middle of COCO's, which lie at 0.025-0.107."""

MAX_KEYPOINT_NAME_CHARS = 100
"""Characters of a keypoint's name: it must fit a column, a plot, and a metric's name."""


@dataclass(frozen=True)
class Skeleton:
    """The keypoints of one species, in the order of its data set's annotations."""

    name: str
    keypoints: tuple[str, ...]
    bones: tuple[tuple[str, str], ...] = ()
    oks_sigmas: tuple[float, ...] | None = None
    """Annotators' spread per keypoint, as a fraction of the object's size (COCO's sigma)."""
    other_oks_sigmas: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    """Sigma sets that others score with, by their name. Reported beside, never instead."""
    upper_body: tuple[int, ...] = ()
    """Indices that count as the upper half when an augmentation cuts a body in two."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Left/right pairs, where the names do not show them."""

    def __post_init__(self) -> None:
        where = f"skeleton {self.name!r}"
        if not self.keypoints:
            raise DataError("a skeleton without keypoints", where, "name its keypoints in order")
        if doubled := sorted(k for k, times in Counter(self.keypoints).items() if times > 1):
            raise DataError(f"keypoints named twice: {doubled}", where, "give each its own name")
        for entry, named in (("bones", self.bones), ("pairs", self.pairs)):
            if strays := sorted({end for pair in named for end in pair} - set(self.keypoints)):
                raise DataError(
                    f"{entry} name no such keypoint: {strays}",
                    where,
                    f"use {', '.join(self.keypoints)}",
                )
        for sigmas in filter(None, (self.oks_sigmas, *self.other_oks_sigmas.values())):
            if len(sigmas) != len(self):
                raise DataError(
                    f"{len(sigmas)} oks_sigmas for {len(self)} keypoints",
                    where,
                    "give one sigma for each keypoint, in their order",
                )
            if not all(0 < sigma < math.inf for sigma in sigmas):
                raise DataError("oks_sigmas that are not all above 0", where, "COCO's lie at 0.025 to 0.107")
        _ = self.flip_order  # a left without its right is found here, not in the first mirror

    def __len__(self) -> int:
        return len(self.keypoints)

    @cached_property
    def flip_order(self) -> tuple[int, ...]:
        """Where each keypoint's mirror image stands: `pose[flip_order]` is the mirrored pose."""
        place = {name: index for index, name in enumerate(self.keypoints)}
        given = dict([*self.pairs, *((right, left) for left, right in self.pairs)])
        mirrored = {name: given.get(name) or _find_mirrored_name(name, place) for name in place}
        if lonely := [name for name, other in mirrored.items() if other not in place]:
            raise DataError(
                f"{lonely[0]!r} has no keypoint {mirrored[lonely[0]]!r} to change places with",
                f"skeleton {self.name!r}",
                "name both sides alike (left_knee, right_knee), or drop the side from the name",
            )
        if unequal := [name for name, other in mirrored.items() if mirrored[other] != name]:
            raise DataError(
                f"it is not clear what {unequal[0]!r} changes places with in a mirror",
                f"skeleton {self.name!r}",
                "name both sides alike (left_knee, right_knee), or each in one pair of `pairs`",
            )
        return tuple(place[other] for other in mirrored.values())

    @cached_property
    def left_keypoints(self) -> tuple[int, ...]:
        """The keypoints of the left side, each of which has a right one."""
        given = {name: at for pair in self.pairs for at, name in enumerate(pair)}
        mirrored = (self.keypoints[other] for other in self.flip_order)
        both = enumerate(zip(self.keypoints, mirrored, strict=True))
        return tuple(k for k, (name, other) in both if given.get(name, not _is_left_side(name, other)) == 0)

    @property
    def scoring_sigmas(self) -> tuple[float, ...]:
        """`oks_sigmas`, or one middling sigma for all where the skeleton brings none."""
        return self.oks_sigmas or (DEFAULT_OKS_SIGMA,) * len(self)


_OPPOSITE_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}
_SEPARATORS = "_- ."
_WORD_PATTERN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^A-Za-z]")
"""`leftKnee`, `LKnee` and `left_knee` have two words each; what is no letter stands alone."""


def swap_side_in_name(name: str) -> str:
    """The name after a mirror: `left_knee` -> `right_knee`, `L_Knee` -> `R_Knee`, `kneeLeft`.

    Left or right is a word anywhere in a name; L or R its first or its last, with a mark between.
    A keypoint without a side is its own mirror image.
    """
    words = _WORD_PATTERN.findall(name)
    if {"left", "right"} <= {word.lower() for word in words}:  # between the two
        return name
    for at, word in enumerate(words):
        side = word.lower()
        clear = side in ("left", "right") or (side in _OPPOSITE_SIDE and _is_separated_word(words, at))
        if clear and len(words) > 1:
            return _swap_side_word(words, at)
    return name


def _is_separated_word(words: Sequence[str], at: int) -> bool:
    """Whether a word is the first or the last, with a mark like `_` towards the others."""
    first, last = at == 0, at == len(words) - 1
    return first != last and words[1 if first else -2] in _SEPARATORS and (first or last)


def _find_mirrored_name(name: str, known_names: Collection[str]) -> str:
    """The mirrored name; of less clear ones (`LKnee`, `lknee`, `leftknee`) one that is there."""
    mirrored = swap_side_in_name(name)
    if mirrored != name:
        return mirrored
    return next((other for other in _generate_mirror_candidates(name) if other in known_names), name)


def _generate_mirror_candidates(name: str) -> Iterator[str]:
    """A side that is one of the words after all, or a part of one."""
    words = _WORD_PATTERN.findall(name)
    for at, word in enumerate(words):
        if word.lower() in _OPPOSITE_SIDE:
            yield _swap_side_word(words, at)
    for side, other in _OPPOSITE_SIDE.items():
        if name.lower().startswith(side):
            yield _match_case(name[: len(side)], other) + name[len(side) :]
        if len(side) > 1 and name.lower().endswith(side):
            yield name[: -len(side)] + _match_case(name[-len(side) :], other)


def _is_left_side(name: str, mirrored: str) -> bool:
    """Decide by the first letter in which the two names differ."""
    differing = zip(name.lower(), mirrored.lower(), strict=False)
    return next((own == "l" for own, other in differing if own != other), False)


def _swap_side_word(words: Sequence[str], at: int) -> str:
    mirrored = _match_case(words[at], _OPPOSITE_SIDE[words[at].lower()])
    return "".join([*words[:at], mirrored, *words[at + 1 :]])


def normalize_keypoint_name(name: str) -> str:
    """`Left Ear`, `left-ear` and `LeftEar` are `left_ear`."""
    return "_".join(word.lower() for word in _WORD_PATTERN.findall(name) if word not in _SEPARATORS)


def _match_case(template: str, word: str) -> str:
    if template.isupper():
        return word.upper()
    return word.capitalize() if template[0].isupper() else word


def from_coco_category(category: Mapping[str, Any], *, name: str | None = None) -> Skeleton:
    """Read a COCO category: its `keypoints` are names, its `skeleton` pairs of indices.

    COCO counts the pairs from 1, ATRW and many exports from 0: a 0 anywhere shows the latter.
    """
    keypoints = tuple(str(keypoint) for keypoint in category.get("keypoints", ()))
    pairs = [tuple(int(end) for end in pair) for pair in category.get("skeleton") or ()]
    first = 0 if any(0 in pair for pair in pairs) else 1
    inside = [pair for pair in pairs if all(first <= end < first + len(keypoints) for end in pair)]
    return Skeleton(
        name=name or str(category.get("name", "custom")),
        keypoints=keypoints,
        bones=tuple((keypoints[a - first], keypoints[b - first]) for a, b in inside),
        oks_sigmas=tuple(category["sigmas"]) if category.get("sigmas") else None,
        upper_body=tuple(category.get("upper_body", ())),
    )


def to_dict(skeleton: Skeleton) -> dict[str, Any]:
    """Plain values, as a shard's metadata and a skeleton file hold them."""
    return {
        "name": skeleton.name,
        "keypoints": list(skeleton.keypoints),
        "bones": [list(bone) for bone in skeleton.bones],
        "oks_sigmas": list(skeleton.oks_sigmas) if skeleton.oks_sigmas else None,
        "other_oks_sigmas": {k: list(v) for k, v in skeleton.other_oks_sigmas.items()},
        "upper_body": [skeleton.keypoints[index] for index in skeleton.upper_body],
        **({"pairs": [list(pair) for pair in skeleton.pairs]} if skeleton.pairs else {}),
    }


def from_dict(values: Mapping[str, Any], *, where: str) -> Skeleton:
    """The inverse of `to_dict`; `where` names the file in errors.

    Raises:
        DataError: an entry that is unknown, or not of the form that `to_dict` gives it.
    """
    known = {entry.name for entry in fields(Skeleton)}
    if strays := sorted(map(str, set(values) - known)):
        raise DataError(f"unknown entries {strays} in a skeleton", where, f"use {', '.join(sorted(known))}")
    keypoints = _parse_names(values.get("keypoints"), "keypoints", where)
    if not keypoints:
        raise DataError("a skeleton without a list of keypoints", where, "add `keypoints: [...]`")
    upper_body = _parse_names(values.get("upper_body"), "upper_body", where)
    if strays := sorted(set(upper_body) - set(keypoints)):
        raise DataError(f"upper_body names no such keypoint: {strays}", where, f"use {', '.join(keypoints)}")
    place = {name: index for index, name in enumerate(keypoints)}
    others = values.get("other_oks_sigmas") or {}
    if not isinstance(others, Mapping):
        raise _make_invalid_entry_error("other_oks_sigmas", where, "{name: [0.1, ...]}")
    parts: dict[str, Any] = {
        "name": str(values.get("name", "custom")),
        "keypoints": keypoints,
        "bones": _parse_pairs(values.get("bones"), "bones", where),
        "pairs": _parse_pairs(values.get("pairs"), "pairs", where),
        "oks_sigmas": _parse_sigmas(values.get("oks_sigmas"), "oks_sigmas", where),
        "other_oks_sigmas": {
            str(name): _parse_sigmas(sigmas, "other_oks_sigmas", where) or () for name, sigmas in others.items()
        },
        "upper_body": tuple(place[name] for name in upper_body),
    }
    try:
        return Skeleton(**parts)
    except DataError as error:
        raise DataError(error.what, f"{where}: {error.where}", error.fix) from error


def _parse_names(values: object, entry: str, where: str) -> tuple[str, ...]:
    if values is None:
        return ()
    if not isinstance(values, list) or not all(
        isinstance(name, str) and 0 < len(name) <= MAX_KEYPOINT_NAME_CHARS and name.isprintable() for name in values
    ):  # YAML reads a bare `no` or `12` as other than text
        raise _make_invalid_entry_error(entry, where, "[nose, tail], with quotes around what is no word")
    return tuple(values)


def _parse_pairs(values: object, entry: str, where: str) -> tuple[tuple[str, str], ...]:
    pairs = [] if values is None else values
    if not isinstance(pairs, list) or not all(isinstance(pair, list) for pair in pairs):
        raise _make_invalid_entry_error(entry, where, "[[left_ear, nose], [nose, tail]]")
    named = [_parse_names(pair, entry, where) for pair in pairs]
    if not all(len(pair) == 2 for pair in named):
        raise _make_invalid_entry_error(entry, where, "[[left_ear, nose], [nose, tail]]")
    return tuple((pair[0], pair[1]) for pair in named)


def _parse_sigmas(values: object, entry: str, where: str) -> tuple[float, ...] | None:
    if values is None or values == []:
        return None
    if not isinstance(values, list) or not all(
        isinstance(sigma, int | float) and not isinstance(sigma, bool) and abs(sigma) < 1e9 for sigma in values
    ):
        raise _make_invalid_entry_error(entry, where, "[0.025, 0.05]")
    return tuple(map(float, values))


def _make_invalid_entry_error(entry: str, where: str, expected: str) -> DataError:
    return DataError(f"{entry} in another form than a skeleton has", where, f"write {expected}")


def load_skeleton(name: str) -> Skeleton:
    """A skeleton by name (`mpii`, `atrw`, `coco`) or from a YAML file."""
    if name in SKELETONS:
        return SKELETONS[name]
    if name.endswith((".yaml", ".yml")):
        return _load_yaml_skeleton(Path(name))
    raise DataError(
        f"no skeleton {name!r}",
        f"known: {', '.join(SKELETONS)}",
        "use one of these, a YAML file (keypoints: [...]), or leave it out to take the category's",
    )


def _load_yaml_skeleton(path: Path) -> Skeleton:
    values = load_safe_yaml(path, fix="start it with `keypoints: [...]`; see docs/data.md")
    return from_dict({"name": path.stem, **values}, where=str(path))


MPII = Skeleton(
    name="mpii",
    keypoints=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
        "pelvis", "thorax", "upper_neck", "head_top",
        "right_wrist", "right_elbow", "right_shoulder",
        "left_shoulder", "left_elbow", "left_wrist",
    ),
    bones=(
        ("right_ankle", "right_knee"), ("right_knee", "right_hip"), ("right_hip", "pelvis"),
        ("pelvis", "left_hip"), ("left_hip", "left_knee"), ("left_knee", "left_ankle"),
        ("pelvis", "thorax"), ("thorax", "upper_neck"), ("upper_neck", "head_top"),
        ("thorax", "right_shoulder"), ("right_shoulder", "right_elbow"),
        ("right_elbow", "right_wrist"),
        ("thorax", "left_shoulder"), ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"),
    ),
    upper_body=(7, 8, 9, 10, 11, 12, 13, 14, 15),
)  # fmt: skip

ATRW = Skeleton(
    name="atrw",
    keypoints=(
        "left_ear", "right_ear", "nose",
        "right_shoulder", "right_front_paw", "left_shoulder", "left_front_paw",
        "right_hip", "right_knee", "right_back_paw", "left_hip", "left_knee", "left_back_paw",
        "tail", "center",
    ),
    bones=(
        ("left_ear", "nose"), ("right_ear", "nose"), ("nose", "center"),
        ("left_shoulder", "left_front_paw"), ("left_shoulder", "center"),
        ("right_shoulder", "right_front_paw"), ("right_shoulder", "center"),
        ("tail", "center"),
        ("right_back_paw", "right_knee"), ("right_knee", "right_hip"), ("right_hip", "tail"),
        ("left_back_paw", "left_knee"), ("left_knee", "left_hip"), ("left_hip", "tail"),
    ),
    # sqrt of the variances in the challenge's own evaluation script (CVWC 2019).
    oks_sigmas=tuple(
        (variance / 1e4) ** 0.5
        for variance in (
            5.8, 51.2, 52.2, 3.1, 38.8, 5.2, 31.5, 6.9, 14.7, 7.6, 8.4, 22.6, 5.2, 35.3, 21.9,
        )
    ),
    other_oks_sigmas={
        "mmpose": (
            0.0277, 0.0823, 0.0831, 0.0202, 0.0716, 0.0263, 0.0646, 0.0302,
            0.0440, 0.0316, 0.0333, 0.0547, 0.0263, 0.0683, 0.0539,
        ),
    },
    upper_body=(0, 1, 2, 3, 4, 5, 6),
)  # fmt: skip

COCO = Skeleton(
    name="coco",
    keypoints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear",
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
        "left_wrist", "right_wrist", "left_hip", "right_hip",
        "left_knee", "right_knee", "left_ankle", "right_ankle",
    ),
    bones=(
        ("left_ankle", "left_knee"), ("left_knee", "left_hip"),
        ("right_ankle", "right_knee"), ("right_knee", "right_hip"), ("left_hip", "right_hip"),
        ("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"),
        ("left_shoulder", "right_shoulder"),
        ("left_shoulder", "left_elbow"), ("right_shoulder", "right_elbow"),
        ("left_elbow", "left_wrist"), ("right_elbow", "right_wrist"),
        ("left_eye", "right_eye"), ("nose", "left_eye"), ("nose", "right_eye"),
        ("left_eye", "left_ear"), ("right_eye", "right_ear"),
        ("left_ear", "left_shoulder"), ("right_ear", "right_shoulder"),
    ),
    oks_sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072,
        0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
    ),
    upper_body=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
)  # fmt: skip

SKELETONS = {skeleton.name: skeleton for skeleton in (MPII, ATRW, COCO)}
