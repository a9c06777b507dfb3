import os
import resource
import time

import pytest

from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import (
    ATRW,
    COCO,
    MPII,
    Skeleton,
    from_coco_category,
    from_dict,
    load_skeleton,
    swap_side_in_name,
    to_dict,
)

PUBLISHED_PAIRS = [
    (MPII, [(0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)]),
    (ATRW, [(0, 1), (3, 5), (4, 6), (7, 10), (8, 11), (9, 12)]),
    (COCO, [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)]),
]


@pytest.mark.parametrize(("skeleton", "pairs"), PUBLISHED_PAIRS, ids=lambda x: getattr(x, "name", ""))
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
        ("leftKnee", "rightKnee"),
        ("KneeRight", "KneeLeft"),
        ("front_left_paw", "front_right_paw"),
        ("front left paw", "front right paw"),
        ("knee (left)", "knee (right)"),
        ("LEFT_EYE", "RIGHT_EYE"),
        ("rear_paw", "rear_paw"),
        ("between_left_and_right_eye", "between_left_and_right_eye"),
        ("L1", "L1"),
    ],
)
def test_a_mirror_changes_only_the_side(name, mirrored):
    assert swap_side_in_name(name) == mirrored


@pytest.mark.parametrize(
    ("left", "right"),
    [
        *(("LKnee", "RKnee"), ("lknee", "rknee"), ("Knee_L_1", "Knee_R_1"), ("kneeL", "kneeR")),
        *(("leftknee", "rightknee"), ("kneeLEFT", "kneeRIGHT"), ("left", "right"), ("l", "r")),
    ],
)
def test_a_less_clear_side_is_one_where_its_partner_is_there(left: str, right: str):
    both = Skeleton(name="fox", keypoints=("nose", right, left))
    alone = ("rear", "leg", "L1", "tail")

    assert both.flip_order == (0, 2, 1)
    assert both.left_keypoints == (2,)
    assert Skeleton(name="fox", keypoints=alone).flip_order == (0, 1, 2, 3)


def test_pairs_can_be_named_where_names_have_no_side():
    fins = Skeleton(name="fish", keypoints=("fin_a", "mouth", "fin_b"), pairs=(("fin_a", "fin_b"),))

    assert fins.flip_order == (2, 1, 0)
    assert fins.left_keypoints == (0,)
    turned = Skeleton(name="fish", keypoints=("fin_a", "fin_b"), pairs=(("fin_b", "fin_a"),))
    assert turned.left_keypoints == (1,)
    assert from_dict(to_dict(fins), where="x") == fins
    assert "pairs" not in to_dict(ATRW)


@pytest.mark.parametrize(
    ("pairs", "what"),
    [
        ((("fin_a", "fin_c"),), "pairs name no such keypoint"),
        ((("fin_a", "mouth"), ("mouth", "fin_b")), "not clear what 'fin_b' changes places with"),
    ],
)
def test_pairs_that_are_none_are_refused(pairs, what):
    with pytest.raises(DataError, match=what):
        Skeleton(name="fish", keypoints=("fin_a", "mouth", "fin_b"), pairs=pairs)


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

    fox = load_skeleton(str(path))

    assert (fox.name, fox.flip_order) == ("fox", (1, 0, 2))


def test_an_unknown_skeleton_names_the_known_ones():
    with pytest.raises(DataError, match="known: mpii, atrw, coco"):
        load_skeleton("wolf")


def laughs(levels: int = 9) -> str:
    """Nine lines that stand for a billion words."""
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join([*lines, f"keypoints: [*a{levels - 1}]"])


HOSTILE = {
    "python object": ("keypoints: !!python/object/apply:os.getcwd []", "python/object"),
    "python name": ("keypoints: !!python/name:os.system", "python/name"),
    "billion laughs": (laughs(), "an alias (*a0): write it out"),
    "itself": ("keypoints: &me [*me]", "an alias (*me): write it out"),
    "merge key": ("base: &b {name: fox}\n<<: *b\nkeypoints: [nose]", "an alias (*b)"),
    "10 MB": ("keypoints: [" + "nose, " * 1_700_000 + "]", "larger than 65,536 bytes"),
    "10 MB of comment": ("keypoints: [nose]\n# " + "x" * 10_000_000, "larger than 65,536 bytes"),
    "equal keys": ("keypoints: [nose]\nkeypoints: [tail]", "entries given twice: keypoints"),
    "equal inner keys": (
        "keypoints: [nose]\nother_oks_sigmas: {a: [1], a: [2]}", "entries given twice: a",
    ),
    "deep lists": ("keypoints: " + "[" * 30_000, "nested more than 12 deep"),
    "deep entries": ("keypoints: " + "{a: " * 9_000, "nested more than 12 deep"),
    "deep lines": ("\n".join(" " * n + "a:" for n in range(300)), "nested more than 12 deep"),
    "endless number": ("oks_sigmas: [" + "9" * 5_000 + "]", "integer string conversion"),
    "13th month": ("name: 2024-13-45", "month must be"),
    "two documents": ("keypoints: [nose]\n---\nkeypoints: [tail]", "single document"),
    "control character": ("keypoints: [no\0se]", "special characters are not allowed"),
    "unclosed": ("keypoints: [nose", "expected ',' or ']'"),
    "no text": (b"\xff\xfe\xff", "codec can't decode"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_yaml_from_a_stranger_is_refused_at_once(tmp_path, content, reason):
    path = tmp_path / "evil.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    memory_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start_s = time.process_time()

    with pytest.raises(DataError) as error:
        load_skeleton(str(path))

    assert time.process_time() - start_s < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kb < 200 * 1024
    assert error.value.what == "a YAML file that cannot be read"
    assert str(path) in error.value.where
    assert reason in error.value.where
    assert len(error.value.where) < 400 + len(str(path))
    assert error.value.fix == "start it with `keypoints: [...]`; see docs/data.md"


OTHER_FORMS = {
    "text": "nose, tail",
    "list": "[nose, tail]",
    "empty": "",
    "number as key": "1: [nose]",
    "unknown entry": "keypoints: [nose]\njoints: [nose]",
    "no keypoints": "name: fox",
    "keypoints as text": "keypoints: nose",
    "keypoints as numbers": "keypoints: [1, 2]",
    "a bare no": "keypoints: [no, nose]",
    "nameless": "keypoints: ['', nose]",
    "twice": "keypoints: [nose, nose]",
    "long name": f"keypoints: [{'n' * 101}]",
    "line break": 'keypoints: ["no\\nse"]',
    "escape": 'keypoints: ["\\e[31mnose"]',
    "bones as text": "keypoints: [nose, tail]\nbones: nose",
    "bones of three": "keypoints: [a, b, c]\nbones: [[a, b, c]]",
    "bones as letters": "keypoints: [a, b]\nbones: [ab]",
    "a stray bone": "keypoints: [nose]\nbones: [[nose, tail]]",
    "sigmas as text": "keypoints: [nose]\noks_sigmas: [wide]",
    "sigmas as number": "keypoints: [nose]\noks_sigmas: 0.1",
    "no number": "keypoints: [nose]\noks_sigmas: [.nan]",
    "infinite": "keypoints: [nose]\noks_sigmas: [.inf]",
    "negative": "keypoints: [nose]\noks_sigmas: [-0.1]",
    "true": "keypoints: [nose]\noks_sigmas: [true]",
    "two for one": "keypoints: [nose]\noks_sigmas: [0.1, 0.1]",
    "others as list": "keypoints: [nose]\nother_oks_sigmas: [0.1]",
    "others as text": "keypoints: [nose]\nother_oks_sigmas: {a: wide}",
    "a stray upper body": "keypoints: [nose]\nupper_body: [tail]",
    "upper body as entries": "keypoints: [nose]\nupper_body: {nose: 1}",
    "a set": "keypoints: !!set {nose}",
    "bytes": "keypoints: [!!binary bm9zZQ==]",
    "half a pair": "keypoints: [left_ear]",
}


@pytest.mark.parametrize("content", OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_a_yaml_of_another_form_is_refused_by_its_name(tmp_path, content):
    path = tmp_path / "fox.yaml"
    path.write_text(content)

    with pytest.raises(DataError) as error:
        load_skeleton(str(path))

    assert str(path) in error.value.where
    assert error.value.fix


def test_a_skeleton_file_must_be_a_file(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")  # to open it would wait for ever

    for name, reason in [("folder", "is a folder"), ("pipe", "no such"), ("none", "no such file")]:
        with pytest.raises(DataError, match=f"{name}.yaml: {reason}"):
            load_skeleton(str(tmp_path / f"{name}.yaml"))


def test_many_keypoints_are_compared_quickly():
    names = tuple(f"k{number}" for number in range(20_000))
    start_s = time.process_time()

    assert len(Skeleton(name="fox", keypoints=names)) == 20_000
    assert time.process_time() - start_s < 1
