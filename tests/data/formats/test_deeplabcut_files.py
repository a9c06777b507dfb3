"""Test the choice of label files from the names in the folders of a DeepLabCut project."""

from pathlib import Path

import pytest

from hrnet_ray.data.formats.deeplabcut_files import select_label_files
from hrnet_ray.errors import DataError

M1, M2, CROPPED = Path("labeled-data/m1"), Path("labeled-data/m2"), Path("labeled-data/m1_cropped")
ANN, BOB = "CollectedData_Ann.csv", "CollectedData_Bob.csv"


def test_the_file_of_the_scorer_is_selected_and_the_others_are_noted():
    selected = select_label_files({M1: ["CollectedData_Ann.h5", ANN, BOB]}, ["m1"], "Ann")

    assert selected == ([M1 / ANN], [f"m1: labels that were not read: {BOB}"])


def test_the_only_file_is_selected_although_it_is_by_another_scorer():
    selected = select_label_files({M1: [BOB]}, ["m1"], "Ann")

    assert selected == ([M1 / BOB], [f"m1: labels by another than 'Ann': {BOB}"])


def test_only_folders_of_videos_are_read():
    selected = select_label_files({M1: [ANN], CROPPED: [ANN], M2: []}, ["m1", "m2", "m3"], "Ann")

    assert selected == (
        [M1 / ANN],
        [
            "1 folders with labels are of no video in video_sets, and were not read, as in DeepLabCut: m1_cropped",
            "2 videos have no labels: m2, m3",
        ],
    )


def test_all_folders_are_read_if_none_is_of_a_video():
    selected = select_label_files({M1: [ANN], M2: [ANN]}, ["elsewhere"], "Ann")

    assert selected == (
        [M1 / ANN, M2 / ANN],
        ["no folder of labeled-data is of a video in video_sets: all were read"],
    )


def test_no_candidates_select_no_file():
    assert select_label_files({M1: []}, [], "Ann") == ([], [])


@pytest.mark.parametrize(
    ("names", "problem", "where"),
    [
        ([BOB, "CollectedData_Cid.csv"], "labels of several people, and none by 'Ann'", f"{M1}: {BOB}, "),
        (["CollectedData_Ann.h5", BOB], "labels in HDF5 without the CSV", str(M1 / "CollectedData_Ann.h5")),
    ],
)
def test_an_unclear_choice_is_refused(names: list[str], problem: str, where: str):
    with pytest.raises(DataError) as refused:
        select_label_files({M1: names}, ["m1"], "Ann")

    assert refused.value.what.startswith(problem)
    assert refused.value.where.startswith(where)
