"""Read a DeepLabCut config.yaml: scorer, videos, bodyparts and bones."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from hrnet_ray.data.annotations import build_count_note, format_value, require_file
from hrnet_ray.errors import DataError, format_list
from hrnet_ray.safe_yaml import load_safe_yaml
from hrnet_ray.skeletons import Skeleton, from_dict, normalize_keypoint_name

CONFIG_FILE_NAME = "config.yaml"
MAX_CONFIG_BYTES = 2**20
"""Each video has its line, with its whole path."""

ConfigEntries = Mapping[str, Any]


@dataclass(frozen=True)
class DlcProject:
    """A config.yaml, as far as labels are concerned."""

    config_path: Path
    task: str
    scorer: str
    bodyparts: tuple[str, ...]
    """In the order that they are learnt."""
    unique_bodyparts: tuple[str, ...]
    """Bodyparts of no animal, such as the corners of an arena."""
    bones: tuple[Any, ...]
    """As written: some may name no bodypart."""
    video_names: tuple[str, ...]
    """Folders of labeled-data."""

    @property
    def labeled_data_dir(self) -> Path:
        return self.config_path.parent / "labeled-data"


def load_project(path: Path) -> DlcProject:
    """A project, by its folder or its config.yaml.

    Raises:
        DataError: there is none, or it names no bodyparts.
    """
    config = path / CONFIG_FILE_NAME if path.is_dir() else path
    require_file(config, "--project")
    entries = load_safe_yaml(config, fix="give the config.yaml of a DeepLabCut project", max_bytes=MAX_CONFIG_BYTES)
    several = entries.get("multianimalproject") or entries.get("bodyparts") == "MULTI!"
    entry = "multianimalbodyparts" if several else "bodyparts"
    bodyparts = _parse_names(entries, entry, config)
    if not bodyparts:
        raise DataError(f"a project without {entry}", str(config), f"write `{entry}: [nose, tail]`")
    bones, videos = entries.get("skeleton"), entries.get("video_sets")
    return DlcProject(
        config_path=config.absolute(),
        task=str(entries.get("Task") or config.absolute().parent.name),
        scorer=str(entries.get("scorer", "")),
        bodyparts=bodyparts,
        unique_bodyparts=_parse_names(entries, "uniquebodyparts", config) if several else (),
        bones=tuple(bones) if isinstance(bones, list) else (),
        # Paths of the machine that the project was made on, with its slashes.
        video_names=tuple(PureWindowsPath(str(one)).stem for one in videos) if isinstance(videos, dict | list) else (),
    )


def _parse_names(entries: ConfigEntries, entry: str, config: Path) -> tuple[str, ...]:
    names = entries.get(entry) or []
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    raise DataError(
        f"{entry} is {format_value(names)} where names are wanted",
        str(config),
        f"write `{entry}: [nose, tail]`, with quotes around what is no word",
    )


def build_skeleton_from_config(
    project: DlcProject, given_skeleton: Skeleton | None
) -> tuple[Skeleton, dict[str, int], list[str]]:
    """The skeleton, the place in it of each bodypart that is used, and notes.

    Raises:
        DataError: a given skeleton has keypoints that are no bodyparts, the project's own names
            make no skeleton, or there is one keypoint only.
    """
    names = list(given_skeleton.keypoints if given_skeleton else project.bodyparts)
    if len(names) < 2:
        raise DataError(
            "one keypoint only: nothing tells how large an animal is, so it has no box",
            f"{project.config_path}: {format_list(names)}",
            "label a second bodypart, or give boxes with the labels: `hrnet-ray prepare coco`",
        )
    if given_skeleton:
        places = _map_bodyparts_to_keypoints(given_skeleton, project)
        unused = [name for name in project.bodyparts if name not in places]
        return given_skeleton, places, build_count_note(unused, "bodyparts are not in the skeleton, and not used")
    own, strays = _split_bones(project.bones, project.bodyparts)
    values = {"name": project.task, "keypoints": list(project.bodyparts), "bones": own}
    skeleton = from_dict(values, where=str(project.config_path))
    notes = build_count_note([*map(format_value, strays)], "bones of the config do not join two bodyparts")
    if skeleton.flip_order == tuple(range(len(skeleton))):
        notes.append(
            "nothing tells left from right: a mirrored image teaches a left as a right "
            "(if there are sides, give `pairs` in a --skeleton)"
        )
    return skeleton, {name: at for at, name in enumerate(project.bodyparts)}, notes


def _split_bones(bones: Sequence[Any], bodyparts: Collection[str]) -> tuple[list[Any], list[Any]]:
    """Bones that join two bodyparts, and others: a new project's config brings some of these."""
    own = [
        bone for bone in bones if isinstance(bone, list) and len(bone) == 2 and all(end in bodyparts for end in bone)
    ]
    return own, [bone for bone in bones if bone not in own]


def _map_bodyparts_to_keypoints(skeleton: Skeleton, project: DlcProject) -> dict[str, int]:
    """The index of each bodypart in a given skeleton, by its name in any spelling."""
    plain = {normalize_keypoint_name(name): name for name in reversed(project.bodyparts)}
    places: dict[str, int] = {}
    for at, name in enumerate(skeleton.keypoints):
        bodypart = name if name in project.bodyparts else plain.get(normalize_keypoint_name(name))
        if bodypart is None or bodypart in places:
            raise DataError(
                f"keypoint {name!r} of {skeleton.name!r} is no bodypart of its own",
                f"{project.config_path}: {', '.join(project.bodyparts)}",
                "name the keypoints in a --skeleton like the bodyparts, or leave it out",
            )
        places[bodypart] = at
    return places
