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


def get_poses(content: dict) -> np.ndarray:
    """Return all poses of an annotation file, [N, 15, 3]."""
    return np.array([a["keypoints"] for a in content["annotations"]]).reshape(-1, len(ATRW), 3)


def get_boxes(content: dict) -> np.ndarray:
    return np.array([a["bbox"] for a in content["annotations"]], dtype=float)


def test_tigers_are_written_in_the_layout_of_atrw(atrw: Path):
    train, val = read_atrw(atrw, "train"), read_atrw(atrw, "val")

    assert [image["id"] for image in train["images"]] == list(range(40))
    assert [image["id"] for image in val["images"]] == list(range(40, 60))
    assert {a["image_id"] for a in val["annotations"]} == set(range(40, 60))
    assert [a["id"] for a in val["annotations"]] == list(range(len(val["annotations"])))
    assert val["images"][0] == {"id": 40, "filename": "000040.jpg", "width": 120, "height": 90}
    assert cv2.imread(str(atrw / "images" / "val" / "000040.jpg")).shape == (*SIZE_HW, 3)


def test_the_category_lists_keypoints_and_bones_as_in_atrw(atrw: Path):
    (category,) = read_atrw(atrw, "train")["categories"]

    assert category["keypoints"] == list(ATRW.keypoints)
    assert category["skeleton"][0] == [0, 2]
    assert category["skeleton"][3] == [5, 6]
    assert len(category["skeleton"]) == 14


def test_labelled_keypoints_are_inside_the_image_and_others_are_zero(atrw: Path):
    pose = get_poses(read_atrw(atrw, "train"))
    labelled = pose[..., 2] == 2

    assert set(np.unique(pose[..., 2])) == {0, 2}
    assert (pose[labelled][:, :2] <= (119, 89)).all()
    assert (pose[labelled][:, :2] >= 0).all()
    assert (pose[~labelled] == 0).all()


def test_most_tigers_have_at_least_six_labelled_keypoints(atrw: Path):
    content = read_atrw(atrw, "train")
    counts = (get_poses(content)[..., 2] > 0).sum(axis=1)

    assert [a["num_keypoints"] for a in content["annotations"]] == counts.tolist()
    assert (counts >= 6).mean() > 0.95


def test_boxes_contain_their_keypoints_and_are_inside_the_image(atrw: Path):
    content = read_atrw(atrw, "train")
    x, y, w, h = get_boxes(content).T
    pose = get_poses(content)
    inside = (pose[..., 0] > (x - 1)[:, None]) & (pose[..., 0] < (x + w)[:, None])
    inside &= (pose[..., 1] > (y - 1)[:, None]) & (pose[..., 1] < (y + h)[:, None])

    assert (w > 0).all()
    assert (h > 0).all()
    assert (x + w).max() <= 120
    assert (y + h).max() <= 90
    assert inside[pose[..., 2] == 2].all()
    assert [a["area"] for a in content["annotations"]] == (w * h).tolist()


def test_tigers_face_left_and_right_equally_often():
    facings = [tigers.sample_tiger(np.random.default_rng(i)).facing for i in range(400)]

    assert 160 < facings.count("left") < 240


def test_nose_and_tail_agree_with_the_facing():
    for seed in range(50):
        tiger = tigers.sample_tiger(np.random.default_rng(seed))
        pose = dict(zip(ATRW.keypoints, tigers.compute_tiger_keypoints(tiger), strict=True))

        assert (pose["nose"][0] > pose["tail"][0]) == (tiger.facing == "right")


@pytest.mark.parametrize("seed", range(5))
def test_mirroring_a_tiger_exchanges_left_and_right_keypoints(seed: int):
    tiger = tigers.sample_tiger(np.random.default_rng(seed))

    mirror = tigers.compute_tiger_keypoints(tigers.mirror_tiger(tiger, image_width=120))[list(ATRW.flip_order)]

    np.testing.assert_allclose(mirror * (-1, 1) + (119, 0), tigers.compute_tiger_keypoints(tiger), atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_drawing_a_mirrored_tiger_equals_mirroring_the_image(seed: int):
    tiger = tigers.sample_tiger(np.random.default_rng(seed))
    tiger = replace(tiger, center_xy=(60.3, 45.0), body_length_px=50.0)
    image, mirror = np.full((2, *SIZE_HW, 3), 200, np.uint8)

    tigers.draw_tiger(image, tiger)
    tigers.draw_tiger(mirror, tigers.mirror_tiger(tiger, image_width=120))

    difference = cv2.absdiff(image, np.ascontiguousarray(mirror[:, ::-1]))
    assert difference.mean() < 1.5  # cv2 rounds to 1/16 px, and edges are antialiased
    assert np.abs(image.astype(int) - 200).mean() > 15


@pytest.mark.parametrize("seed", range(5))
def test_mirroring_a_person_exchanges_left_and_right_keypoints(seed: int):
    person = people.sample_person(np.random.default_rng(seed))

    mirror = people.compute_person_keypoints(people.mirror_person(person, image_width=120))[list(MPII.flip_order)]

    np.testing.assert_allclose(mirror * (-1, 1) + (119, 0), people.compute_person_keypoints(person), atol=1e-9)


def test_left_keypoints_are_on_the_right_of_the_image_in_a_front_view():
    for seed in range(50):
        person = people.sample_person(np.random.default_rng(seed))
        pose = dict(zip(MPII.keypoints, people.compute_person_keypoints(person), strict=True))
        left_is_right = pose["left_shoulder"][0] > pose["right_shoulder"][0]

        assert left_is_right == (person.view == "front")


def test_an_image_does_not_depend_on_the_number_of_images(tmp_path: Path):
    progress = []
    write_tiger_dataset(tmp_path / "few", num_train=0, num_val=3, size_hw=SIZE_HW)
    write_tiger_dataset(
        tmp_path / "many",
        num_train=2,
        num_val=4,
        size_hw=SIZE_HW,
        on_progress=lambda *at: progress.append(at),
    )

    few = (tmp_path / "few" / "images" / "val" / "000002.jpg").read_bytes()
    assert few == (tmp_path / "many" / "images" / "val" / "000002.jpg").read_bytes()
    assert progress[-1] == (6, 6)


def test_another_seed_gives_other_images(tmp_path: Path):
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


def test_head_boxes_are_centered_between_neck_and_head_top(mpii: Path):
    truth = scipy.io.loadmat(mpii / "annot" / "gt_valid.mat")
    first, last = truth["headboxes_src"]
    middle = truth["pos_gt_src"][8:10].mean(axis=0)  # between upper neck and head top

    np.testing.assert_allclose((first + last) / 2, middle, atol=0.02)
    assert (last > first).all()


def test_people_have_one_based_pixels_and_minus_one_outside_the_image(mpii: Path):
    records = json.loads((mpii / "annot" / "train.json").read_text())
    joints = np.array([record["joints"] for record in records])
    visible = np.array([record["joints_vis"] for record in records]) == 1

    assert [record["image"] for record in records] == [f"{i:09d}.jpg" for i in range(4)]
    assert (joints[visible] >= 1).all()
    assert (joints[visible] <= (120, 90)).all()
    assert (joints[~visible] == -1).all()


def test_a_constant_mean_pose_scores_nearly_zero(atrw: Path):
    train, val = read_atrw(atrw, "train"), read_atrw(atrw, "val")
    x, y, w, h = get_boxes(train).T
    in_box = (get_poses(train)[..., :2] - np.stack([x, y], -1)[:, None]) / np.stack([w, h], -1)[:, None]
    labelled = get_poses(train)[..., 2:] > 0
    mean = (in_box * labelled).sum(axis=0) / labelled.sum(axis=0)

    x, y, w, h = get_boxes(val).T
    constant = np.stack([x, y], -1)[:, None] + mean * np.stack([w, h], -1)[:, None]

    assert compute_oks_ap(val, constant) < 0.05
    assert compute_oks_ap(val, get_poses(val)[..., :2]) == 1.0


def compute_oks_ap(content: dict, image_xy: np.ndarray) -> float:
    """Compute the AP of poses [N, 15, 2], one per annotation, with the sigmas of the ATRW challenge."""
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
