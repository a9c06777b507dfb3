"""Label files of a DeepLabCut project: a CSV in each video's folder of labeled-data."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath

from hrnet_ray.data.annotations import build_count_note, format_value, is_regular_file, require_dir
from hrnet_ray.data.formats.deeplabcut_config import DlcProject
from hrnet_ray.errors import DataError, format_list

LABEL_FILE_PREFIX = "CollectedData_"


def find_label_files(project: DlcProject) -> tuple[list[Path], list[str]]:
    """Find the label file of each video, in the order of their names; return notes, too.

    Raises:
        DataError: the project has no label files, or one of its folders has several.
    """
    require_dir(project.labeled_data_dir, "--project: labeled-data")
    folders = sorted(path for path in project.labeled_data_dir.iterdir() if path.name[0] != "." and path.is_dir())
    linked = [path.name for path in folders if path.is_symlink()]
    candidates = {path: _list_label_files(path) for path in folders if not path.is_symlink()}
    found, notes = select_label_files(candidates, project.video_names, project.scorer)
    if not found:
        raise DataError(
            "a project without labels",
            f"{project.labeled_data_dir}: no {LABEL_FILE_PREFIX}{project.scorer}.csv in {len(candidates):,} folders",
            "give the project's folder as DeepLabCut leaves it after labelling",
        )
    return found, build_count_note(linked, "linked folders were not looked into") + notes


def select_label_files(
    candidates: Mapping[Path, Sequence[str]], video_names: Collection[str], scorer: str
) -> tuple[list[Path], list[str]]:
    """Select a label file per folder from the names of its candidates; return notes, too.

    Only folders of `video_names` are read, as in DeepLabCut: beside them may lie cropped copies of
    the same frames. If no folder is of a video, the config is from another machine, and all are read.

    Raises:
        DataError: a folder has labels by several people or without a CSV.
    """
    notes: list[str] = []
    listed = [folder for folder in candidates if folder.name in video_names]
    unlisted = [folder.name for folder, names in candidates.items() if names and folder not in listed]
    if listed:
        what = "folders with labels are of no video in video_sets, and were not read, as in DeepLabCut"
        notes += build_count_note(unlisted, what)
    elif video_names:
        notes.append("no folder of labeled-data is of a video in video_sets: all were read")
    selected: list[Path] = []
    for folder in listed or candidates:
        name, name_notes = _select_label_file(folder, candidates[folder], scorer)
        notes += name_notes
        if name:
            selected.append(folder / name)
    unlabelled = sorted(set(video_names) - {path.parent.name for path in selected})
    if listed:
        notes += build_count_note(unlabelled, "videos have no labels")
    return selected, notes


def _list_label_files(folder: Path) -> list[str]:
    """List the label files of every scorer, in either form."""
    return sorted(
        path.name
        for path in folder.glob(f"{LABEL_FILE_PREFIX}*")
        if path.suffix in (".csv", ".h5") and is_regular_file(path)
    )


def _select_label_file(folder: Path, names: Sequence[str], scorer: str) -> tuple[str | None, list[str]]:
    """Select the file of the config's scorer, or else the only one; None without any."""
    own = [name for name in names if PurePath(name).stem == LABEL_FILE_PREFIX + scorer]
    considered = own or names
    if not considered:
        return None, []
    tables = [name for name in considered if name.endswith(".csv")]
    if not tables:
        raise _make_missing_csv_error(folder / considered[0])
    if len(tables) > 1:
        raise DataError(
            f"labels of several people, and none by {format_value(scorer)}",
            f"{folder}: {format_list(tables)}",
            "name whose labels count as `scorer` in config.yaml",
        )
    (table,) = tables
    notes = []
    if not own:
        notes.append(f"{folder.name}: labels by another than {format_value(scorer)}: {table}")
    if others := [name for name in names if PurePath(name).stem != PurePath(table).stem]:
        notes.append(f"{folder.name}: labels that were not read: {format_list(others)}")
    return table, notes


def _make_missing_csv_error(path: Path) -> DataError:
    table = path.with_suffix(".csv").name
    return DataError(
        "labels in HDF5 without the CSV that DeepLabCut writes beside it",
        str(path),
        "write it, in that folder, with DeepLabCut's Python: "
        f"import pandas; pandas.read_hdf({path.name!r}).to_csv({table!r})",
    )
