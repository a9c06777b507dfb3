"""Where the labels of a DeepLabCut project lie: a CSV in each video's folder of labeled-data."""

from pathlib import Path

from hrnet_ray.data.annotations import format_value, is_regular_file, require_dir
from hrnet_ray.data.formats.deeplabcut_config import DlcProject
from hrnet_ray.errors import DataError, format_list

LABEL_FILE_PREFIX = "CollectedData_"


def find_label_files(project: DlcProject) -> tuple[list[Path], list[str]]:
    """The file of labels of each video, in the order of their names, and notes.

    Only videos that the config names are read, as in DeepLabCut: beside them may lie cropped copies
    of the same frames. A config that names none of the folders is of another machine's making.

    Raises:
        DataError: there are none, or it is not clear which.
    """
    require_dir(project.labeled_data_dir, "--project: labeled-data")
    below = sorted(path for path in project.labeled_data_dir.iterdir() if path.name[0] != ".")
    folders = [path for path in below if path.is_dir() and not path.is_symlink()]
    linked = [path.name for path in below if path.is_symlink() and path.is_dir()]
    named = [path for path in folders if path.name in project.video_names]
    notes = _describe_linked_dirs(linked)
    if named:
        others = [path.name for path in folders if path not in named and _list_label_files(path)]
        notes += _describe_unlisted_dirs(others)
    elif project.video_names:
        notes.append("no folder of labeled-data is of a video in video_sets: all were read")
    found, unlabelled = [], sorted(set(project.video_names) - {path.name for path in named})
    for folder in named or folders:
        path, note = _select_label_file(folder, project.scorer)
        notes += note
        if path:
            found.append(path)
        elif folder in named:
            unlabelled.append(folder.name)
    if not found:
        raise DataError(
            "a project without labels",
            f"{project.labeled_data_dir}: no {LABEL_FILE_PREFIX}{project.scorer}.csv in {len(folders):,} folders",
            "give the project's folder as DeepLabCut leaves it after labelling",
        )
    if unlabelled and named:
        notes.append(f"{len(unlabelled):,} videos have no labels: {format_list(sorted(unlabelled))}")
    return found, notes


def _describe_linked_dirs(names: list[str]) -> list[str]:
    if not names:
        return []
    return [f"{len(names):,} linked folders were not looked into: {format_list(names)}"]


def _describe_unlisted_dirs(names: list[str]) -> list[str]:
    if not names:
        return []
    what = "folders with labels are of no video in video_sets, and were not read, as in DeepLabCut"
    return [f"{len(names):,} {what}: {format_list(names)}"]


def _list_label_files(folder: Path) -> list[Path]:
    """Label files of every scorer, in either form."""
    return sorted(
        path
        for path in folder.glob(f"{LABEL_FILE_PREFIX}*")
        if path.suffix in (".csv", ".h5") and is_regular_file(path)
    )


def _select_label_file(folder: Path, scorer: str) -> tuple[Path | None, list[str]]:
    """The file of the config's scorer, or else the only one that is there; None without any."""
    there = _list_label_files(folder)
    own = [path for path in there if path.stem == LABEL_FILE_PREFIX + scorer]
    considered = own or there
    if not considered:
        return None, []
    tables = [path for path in considered if path.suffix == ".csv"]
    if not tables:
        raise _make_missing_csv_error(considered[0])
    if len(tables) > 1:
        raise DataError(
            f"labels of several people, and none by {format_value(scorer)}",
            f"{folder}: {format_list([path.name for path in tables])}",
            "name whose labels count as `scorer` in config.yaml",
        )
    (table,) = tables
    notes = []
    if not own:
        notes.append(f"{folder.name}: labels by another than {format_value(scorer)}: {table.name}")
    if others := [path.name for path in there if path.stem != table.stem]:
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
