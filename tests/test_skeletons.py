import pytest

from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import (
    ATRW,
    COCO,
    MPII,
    Skeleton,
    from_coco_category,
    from_dict,
    mirrored_name,
    named,
    to_dict,
)

PUBLISHED_PAIRS = [
    (MPII, [(0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)]),
    (ATRW, [(0, 1), (3, 5), (4, 6), (7, 10), (8, 11), (9, 12)]),
    (COCO, [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)]),
]


@pytest.mark.parametrize(
    ("skeleton", "pairs"), PUBLISHED_PAIRS, ids=lambda x: getattr(x, "name", "")
)
def test_the_names_give_the_published_flip_pairs(skeleton, pairs):
    order = skeleton.flip_order

    assert [(a, b) for a, b in enumerate(order) if a < b] == pairs
    assert [order[order[index]] for index in range(len(skeleton))] == list(range(len(skeleton)))


def test_atrw_has_the_challenge_sigmas_and_mmposes_beside_them():
    assert [round(sigma, 3) for sigma in ATRW.oks_sigmas] == [
        0.024, 0.072, 0.072, 0.018, 0.062, 0.023, 0.056, 0.026, 0.038, 0.028, 0.029, 0.048,
        0.023, 0.059, 0.047,
    ]  # fmt: skip
    ratios = [b / a for a, b in zip(ATRW.oks_sigmas, ATRW.other_oks_sigmas["mmpose"], strict=True)]
    assert all(1.14 < ratio < 1.16 for ratio in ratios)


@pytest.mark.parametrize(
    ("name", "mirrored"),
    [
        ("left_knee", "right_knee"),
        ("Right Paw", "Left Paw"),
        ("L_Ear", "R_Ear"),
        ("knee-left", "knee-right"),
        ("nose", "nose"),
        ("upright", "upright"),
        ("left", "left"),
    ],
)
def test_a_mirror_changes_only_the_side(name, mirrored):
    assert mirrored_name(name) == mirrored


def test_a_left_without_its_right_is_refused():
    with pytest.raises(DataError, match="'left_ear' has no keypoint 'right_ear'"):
        Skeleton(name="fox", keypoints=("left_ear", "nose"))


def test_sigmas_of_another_length_are_refused():
    with pytest.raises(DataError, match="2 oks_sigmas for 1 keypoints"):
        Skeleton(name="fox", keypoints=("nose",), oks_sigmas=(0.1, 0.1))


@pytest.mark.parametrize("first", [0, 1])
def test_a_coco_category_may_count_its_bones_from_zero_or_one(first):
    pairs = [[first, first + 1], [first + 1, first + 2]]

    fox = from_coco_category({"name": "fox", "keypoints": ["a", "b", "c"], "skeleton": pairs})

    assert fox.bones == (("a", "b"), ("b", "c"))


@pytest.mark.parametrize("skeleton", [MPII, ATRW, COCO], ids=lambda s: s.name)
def test_a_skeleton_survives_its_dictionary(skeleton):
    assert from_dict(to_dict(skeleton), where="here") == skeleton


def test_a_skeleton_comes_from_a_few_lines_of_yaml(tmp_path):
    path = tmp_path / "fox.yaml"
    path.write_text("keypoints: [left_ear, right_ear, nose]\nbones: [[left_ear, nose]]\n")

    fox = named(str(path))

    assert (fox.name, fox.flip_order) == ("fox", (1, 0, 2))


def test_an_unknown_skeleton_names_the_known_ones():
    with pytest.raises(DataError, match="known: mpii, atrw, coco"):
        named("wolf")


def test_a_yaml_that_builds_objects_is_refused(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text("keypoints: !!python/object/apply:os.getcwd []\n")

    with pytest.raises(DataError, match="cannot be read"):
        named(str(path))
