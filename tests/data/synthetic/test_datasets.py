import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from faster_coco_eval import COCO, COCOeval_faster

from hrnet_ray.data.synthetic import people, tigers
from hrnet_ray.data.synthetic.datasets import write_people_dataset, write_tiger_dataset
from hrnet_ray.skeletons import ATRW, MPII

SIZE_HW = (90, 120)


@pytest.fixture(scope="module")
def atrw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("atrw")
    write_tiger_dataset(folder, num_train=40, num_val=20, seed=3, size_hw=SIZE_HW)
    return folder


@pytest.fixture(scope="module")
def mpii(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mpii")
    write_people_dataset(folder, num_train=4, num_val=5, seed=3, size_hw=SIZE_HW)
    return folder


def read_atrw(folder: Path, split: str) -> dict:
    return json.loads((folder / "annotations" / f"keypoint_{split}.json").read_text())


def poses(content: dict) -> np.ndarray:
    """All poses of an annotation file, [N, 15, 3]."""
    return np.array([a["keypoints"] for a in content["annotations"]]).reshape(-1, len(ATRW), 3)


def boxes(content: dict) -> np.ndarray:
    return np.array([a["bbox"] for a in content["annotations"]], dtype=float)


def test_tigers_lie_in_the_folders_of_a_downloaded_atrw(atrw: Path):
    train, val = read_atrw(atrw, "train"), read_atrw(atrw, "val")

    assert [image["id"] for image in train["images"]] == list(range(40))
    assert [image["id"] for image in val["images"]] == list(range(40, 60))
    assert {a["image_id"] for a in val["annotations"]} == set(range(40, 60))
    assert [a["id"] for a in val["annotations"]] == list(range(len(val["annotations"])))
    assert val["images"][0] == {"id": 40, "filename": "000040.jpg", "width": 120, "height": 90}
    assert cv2.imread(str(atrw / "images" / "val" / "000040.jpg")).shape == (*SIZE_HW, 3)


def test_the_tiger_category_names_keypoints_in_order_and_bones_from_zero(atrw: Path):
    (category,) = read_atrw(atrw, "train")["categories"]

    assert category["keypoints"] == list(ATRW.keypoints)
    assert category["skeleton"][0] == [0, 2]
    assert category["skeleton"][3] == [5, 6]
    assert len(category["skeleton"]) == 14


def test_labelled_keypoints_lie_in_the_picture_and_the_others_are_zero(atrw: Path):
    pose = poses(read_atrw(atrw, "train"))
    labelled = pose[..., 2] == 2

    assert set(np.unique(pose[..., 2])) == {0, 2}
    assert (pose[labelled][:, :2] <= (119, 89)).all()
    assert (pose[labelled][:, :2] >= 0).all()
    assert (pose[~labelled] == 0).all()


def test_nearly_every_tiger_has_six_labelled_keypoints(atrw: Path):
    content = read_atrw(atrw, "train")
    counts = (poses(content)[..., 2] > 0).sum(axis=1)

    assert [a["num_keypoints"] for a in content["annotations"]] == counts.tolist()
    assert (counts >= 6).mean() > 0.95


def test_a_box_holds_its_tiger_and_stays_in_the_picture(atrw: Path):
    content = read_atrw(atrw, "train")
    x, y, w, h = boxes(content).T
    pose = poses(content)
    inside = (pose[..., 0] > (x - 1)[:, None]) & (pose[..., 0] < (x + w)[:, None])
    inside &= (pose[..., 1] > (y - 1)[:, None]) & (pose[..., 1] < (y + h)[:, None])

    assert (w > 0).all()
    assert (h > 0).all()
    assert (x + w).max() <= 120
    assert (y + h).max() <= 90
    assert inside[pose[..., 2] == 2].all()
    assert [a["area"] for a in content["annotations"]] == (w * h).tolist()


def test_both_flanks_are_seen_equally_often():
    facings = [tigers.sample_tiger(np.random.default_rng(i)).facing for i in range(400)]

    assert 160 < facings.count("left") < 240


def test_the_nose_points_to_where_the_tiger_faces():
    for seed in range(50):
        tiger = tigers.sample_tiger(np.random.default_rng(seed))
        pose = dict(zip(ATRW.keypoints, tigers.compute_tiger_keypoints(tiger), strict=True))

        assert (pose["nose"][0] > pose["tail"][0]) == (tiger.facing == "right")


@pytest.mark.parametrize("seed", range(5))
def test_a_mirrored_tiger_is_a_tiger_with_left_and_right_exchanged(seed: int):
    tiger = tigers.sample_tiger(np.random.default_rng(seed))

    mirror = tigers.compute_tiger_keypoints(tigers.mirror_tiger(tiger, image_width=120))[list(ATRW.flip_order)]

    np.testing.assert_allclose(mirror * (-1, 1) + (119, 0), tigers.compute_tiger_keypoints(tiger), atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_mirrored_tiger_is_drawn_as_the_mirrored_picture(seed: int):
    tiger = tigers.sample_tiger(np.random.default_rng(seed))
    tiger = replace(tiger, center_xy=(60.3, 45.0), body_length_px=50.0)
    picture, mirror = np.full((2, *SIZE_HW, 3), 200, np.uint8)

    tigers.draw_tiger(picture, tiger)
    tigers.draw_tiger(mirror, tigers.mirror_tiger(tiger, image_width=120))

    difference = cv2.absdiff(picture, np.ascontiguousarray(mirror[:, ::-1]))
    assert difference.mean() < 1.5  # cv2 rounds to 1/16 pixel, and edges are soft
    assert np.abs(picture.astype(int) - 200).mean() > 15


@pytest.mark.parametrize("seed", range(5))
def test_a_mirrored_person_is_a_person_with_left_and_right_exchanged(seed: int):
    person = people.sample_person(np.random.default_rng(seed))

    mirror = people.compute_person_keypoints(people.mirror_person(person, image_width=120))[list(MPII.flip_order)]

    np.testing.assert_allclose(mirror * (-1, 1) + (119, 0), people.compute_person_keypoints(person), atol=1e-9)


def test_the_left_hand_of_a_person_who_looks_at_us_is_on_our_right():
    for seed in range(50):
        person = people.sample_person(np.random.default_rng(seed))
        pose = dict(zip(MPII.keypoints, people.compute_person_keypoints(person), strict=True))
        left_is_right = pose["left_shoulder"][0] > pose["right_shoulder"][0]

        assert left_is_right == (person.view == "front")


def test_a_picture_does_not_depend_on_how_many_were_drawn_before(tmp_path: Path):
    told = []
    write_tiger_dataset(tmp_path / "few", num_train=0, num_val=3, size_hw=SIZE_HW)
    write_tiger_dataset(
        tmp_path / "many",
        num_train=2,
        num_val=4,
        size_hw=SIZE_HW,
        on_progress=lambda *at: told.append(at),
    )

    few = (tmp_path / "few" / "images" / "val" / "000002.jpg").read_bytes()
    assert few == (tmp_path / "many" / "images" / "val" / "000002.jpg").read_bytes()
    assert told[-1] == (6, 6)


def test_another_seed_draws_other_pictures(tmp_path: Path):
    for seed in (0, 1):
        write_people_dataset(tmp_path / str(seed), num_train=1, num_val=0, seed=seed, size_hw=SIZE_HW)

    one, other = (tmp_path / s / "images" / "000000000.jpg" for s in "01")
    assert one.read_bytes() != other.read_bytes()


def test_gt_valid_agrees_with_valid_json(mpii: Path):
    records = json.loads((mpii / "annot" / "valid.json").read_text())
    truth = scipy.io.loadmat(mpii / "annot" / "gt_valid.mat")

    joints = np.array([record["joints"] for record in records])
    visible = np.array([record["joints_vis"] for record in records])
    assert joints.shape == (5, 16, 2)
    np.testing.assert_array_equal(truth["pos_gt_src"].transpose(2, 0, 1), joints)
    np.testing.assert_array_equal(1 - truth["jnt_missing"].T, visible)
    assert truth["headboxes_src"].shape == (2, 2, 5)
    assert np.where(truth["dataset_joints"] == "head")[1][0] == 9


def test_a_head_box_spans_the_head(mpii: Path):
    truth = scipy.io.loadmat(mpii / "annot" / "gt_valid.mat")
    first, last = truth["headboxes_src"]
    middle = truth["pos_gt_src"][8:10].mean(axis=0)  # between upper neck and head top

    np.testing.assert_allclose((first + last) / 2, middle, atol=0.02)
    assert (last > first).all()


def test_people_count_pixels_from_one_and_hide_what_is_outside(mpii: Path):
    records = json.loads((mpii / "annot" / "train.json").read_text())
    joints = np.array([record["joints"] for record in records])
    visible = np.array([record["joints_vis"] for record in records]) == 1

    assert [record["image"] for record in records] == [f"{i:09d}.jpg" for i in range(4)]
    assert (joints[visible] >= 1).all()
    assert (joints[visible] <= (120, 90)).all()
    assert (joints[~visible] == -1).all()


def test_the_mean_pose_in_the_box_scores_next_to_nothing(atrw: Path):
    train, val = read_atrw(atrw, "train"), read_atrw(atrw, "val")
    x, y, w, h = boxes(train).T
    in_box = (poses(train)[..., :2] - np.stack([x, y], -1)[:, None]) / np.stack([w, h], -1)[:, None]
    labelled = poses(train)[..., 2:] > 0
    mean = (in_box * labelled).sum(axis=0) / labelled.sum(axis=0)

    x, y, w, h = boxes(val).T
    constant = np.stack([x, y], -1)[:, None] + mean * np.stack([w, h], -1)[:, None]

    assert oks_ap(val, constant) < 0.05
    assert oks_ap(val, poses(val)[..., :2]) == 1.0


def oks_ap(content: dict, image_xy: np.ndarray) -> float:
    """Score poses [N, 15, 2], one for each annotation, with the challenge's own sigmas."""
    annotations = [a | {"id": a["id"] + 1} for a in content["annotations"]]  # COCO ignores id 0
    results = [
        {
            "image_id": a["image_id"],
            "category_id": 1,
            "keypoints": np.pad(xy, ((0, 0), (0, 1)), constant_values=1).ravel().tolist(),
            "score": 1.0,
        }
        for a, xy in zip(annotations, image_xy, strict=True)
    ]
    truth = COCO(content | {"annotations": annotations})
    scored = COCOeval_faster(truth, truth.loadRes(results), "keypoints", kpt_oks_sigmas=np.array(ATRW.oks_sigmas))
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    return float(scored.stats[0])
