"""What a DeepLabCut config.yaml says: who labelled, which videos, which bodyparts and bones."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from hrnet_ray.data.annotations import check_file, shown
from hrnet_ray.errors import DataError, shortened
from hrnet_ray.safe_yaml import read_yaml
from hrnet_ray.skeletons import Skeleton, from_dict, plain_name

NAME = "config.yaml"
MOST_BYTES = 2**20
"""Each video has its line, with its whole path."""

Entries = Mapping[str, Any]


@dataclass(frozen=True)
class Project:
    """A config.yaml, as far as labels are concerned."""

    config: Path
    task: str
    scorer: str
    bodyparts: tuple[str, ...]
    """In the order that they are learnt."""
    unique: tuple[str, ...]
    """Bodyparts of no animal, such as the corners of an arena."""
    bones: tuple[Any, ...]
    """As written: some may name no bodypart."""
    videos: tuple[str, ...]
    """Folders of labeled-data."""

    @property
    def labeled(self) -> Path:
        return self.config.parent / "labeled-data"


def load(path: Path) -> Project:
    """A project, by its folder or its config.yaml.

    Raises:
        DataError: there is none, or it names no bodyparts.
    """
    config = path / NAME if path.is_dir() else path
    check_file(config, "--project")
    entries = read_yaml(
        config, fix="give the config.yaml of a DeepLabCut project", max_bytes=MOST_BYTES
    )
    several = entries.get("multianimalproject") or entries.get("bodyparts") == "MULTI!"
    entry = "multianimalbodyparts" if several else "bodyparts"
    bodyparts = _names(entries, entry, config)
    if not bodyparts:
        raise DataError(f"a project without {entry}", str(config), f"write `{entry}: [nose, tail]`")
    bones, videos = entries.get("skeleton"), entries.get("video_sets")
    return Project(
        config=config.absolute(),
        task=str(entries.get("Task") or config.absolute().parent.name),
        scorer=str(entries.get("scorer", "")),
        bodyparts=bodyparts,
        unique=_names(entries, "uniquebodyparts", config) if several else (),
        bones=tuple(bones) if isinstance(bones, list) else (),
        # Paths of the machine that the project was made on, with its slashes.
        videos=tuple(PureWindowsPath(str(one)).stem for one in videos)
        if isinstance(videos, dict | list)
        else (),
    )


def _names(entries: Entries, entry: str, config: Path) -> tuple[str, ...]:
    names = entries.get(entry) or []
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    raise DataError(
        f"{entry} is {shown(names)} where names are wanted",
        str(config),
        f"write `{entry}: [nose, tail]`, with quotes around what is no word",
    )


def skeleton_of(
    project: Project, given: Skeleton | None
) -> tuple[Skeleton, dict[str, int], list[str]]:
    """The skeleton, the place in it of each bodypart that is used, and notes.

    Raises:
        DataError: a given skeleton has keypoints that are no bodyparts, the project's own names
            make no skeleton, or there is one keypoint only.
    """
    if len(given or project.bodyparts) < 2:
        raise DataError(
            "one keypoint only: nothing tells how large an animal is, so it has no box",
            f"{project.config}: {shortened(list(given.keypoints if given else project.bodyparts))}",
            "label a second bodypart, or give boxes with the labels: `hrnet-ray prepare coco`",
        )
    if given:
        places = _places(given, project)
        unused = [name for name in project.bodyparts if name not in places]
        told = f"{len(unused):,} bodyparts are not in the skeleton, and not used"
        return given, places, [f"{told}: {shortened(unused)}"] if unused else []
    own, strays = _own_bones(project.bones, project.bodyparts)
    values = {"name": project.task, "keypoints": list(project.bodyparts), "bones": own}
    skeleton, notes = from_dict(values, where=str(project.config)), []
    if strays:
        named = shortened([shown(bone) for bone in strays])
        notes.append(f"{len(strays):,} bones of the config do not join two bodyparts: {named}")
    if skeleton.flip_order == tuple(range(len(skeleton))):
        notes.append(
            "nothing tells left from right: a mirrored picture teaches a left as a right "
            "(if there are sides, give `pairs` in a --skeleton)"
        )
    return skeleton, {name: at for at, name in enumerate(project.bodyparts)}, notes


def _own_bones(bones: Sequence[Any], names: Collection[str]) -> tuple[list[Any], list[Any]]:
    """Bones that join two bodyparts, and others: a new project's config brings some of these."""
    own = [
        bone
        for bone in bones
        if isinstance(bone, list) and len(bone) == 2 and all(end in names for end in bone)
    ]
    return own, [bone for bone in bones if bone not in own]


def _places(skeleton: Skeleton, project: Project) -> dict[str, int]:
    """The place of each bodypart in a given skeleton: by its name, in whatever spelling."""
    plain = {plain_name(name): name for name in reversed(project.bodyparts)}
    places: dict[str, int] = {}
    for at, name in enumerate(skeleton.keypoints):
        bodypart = name if name in project.bodyparts else plain.get(plain_name(name))
        if bodypart is None or bodypart in places:
            raise DataError(
                f"keypoint {name!r} of {skeleton.name!r} is no bodypart of its own",
                f"{project.config}: {', '.join(project.bodyparts)}",
                "name the keypoints in a --skeleton like the bodyparts, or leave it out",
            )
        places[bodypart] = at
    return places
