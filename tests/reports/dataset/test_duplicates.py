from pathlib import Path

import cv2
import numpy as np
import pytest

from hrnet_ray.data.images import codec
from hrnet_ray.data.synthetic.datasets import write_tiger_dataset
from hrnet_ray.reports.dataset.duplicates import (
    MAX_HASH_DISTANCE,
    StoredImages,
    compute_perceptual_hash,
    find_exact_duplicates,
    find_near_duplicates,
)
from hrnet_ray.reports.dataset.issues import DatasetIssue, IssueType


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    folder = tmp_path_factory.mktemp("scenes")
    write_tiger_dataset(folder, num_train=30, num_val=0, size_hw=(150, 200))
    return [codec.read_image(path) for path in sorted((folder / "images" / "train").glob("*.jpg"))]


def compressed(picture: np.ndarray) -> np.ndarray:
    again = codec.decode_image(codec.encode_jpeg(picture, quality=50))
    assert again is not None
    return again


def halved(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def brightened(picture: np.ndarray) -> np.ndarray:
    return (picture * 0.85 + 30).astype(np.uint8)


def bits(one: np.ndarray, other: np.ndarray) -> int:
    return int(
        np.bitwise_count(compute_perceptual_hash(one)[0] ^ compute_perceptual_hash(other)[0]).sum()
    )


@pytest.mark.parametrize("change", [compressed, halved, brightened])
def test_a_changed_copy_looks_alike(scenes: list[np.ndarray], change):
    apart = [bits(scene, change(scene)) for scene in scenes]

    print(f"{change.__name__}: at most {max(apart)} of 128 bits differ")
    assert max(apart) <= MAX_HASH_DISTANCE


def test_other_scenes_do_not_look_alike(scenes: list[np.ndarray]):
    apart = [bits(a, b) for at, a in enumerate(scenes) for b in scenes[:at]]

    print(f"{len(apart)} pairs: at least {min(apart)} of 128 bits differ")
    assert min(apart) > 2 * MAX_HASH_DISTANCE


def test_a_flat_picture_says_nothing():
    assert not compute_perceptual_hash(np.full((60, 80, 3), 200, np.uint8))[1]
    assert compute_perceptual_hash(
        np.tile(np.arange(80, dtype=np.uint8)[None, :, None], (60, 1, 3))
    )[1]


def labels(*pictures_of: tuple[str, str]) -> dict[str, np.ndarray]:
    """Rows with these names and fingerprints, and ids from 0."""
    images, sha256 = zip(*pictures_of, strict=True)
    ids = np.arange(len(images))
    return {"id": ids, "image": np.array(images, object), "sha256": np.array(sha256, object)}


def test_copies_are_told_by_their_bytes_not_by_their_names():
    train = labels(("a.jpg", "A"), ("a.jpg", "A"), ("b.jpg", "A"), ("c.jpg", "C"), ("b.jpg", "A"))
    val = labels(("a.jpg", "other"), ("x.jpg", "C"), ("x.jpg", "C"))

    found = find_exact_duplicates({"train": train, "val": val})

    assert found["train"][IssueType.DUPLICATE_IMAGE] == [DatasetIssue(2, "b.jpg", "as a.jpg")]
    assert found["train"][IssueType.IMAGE_IN_OTHER_SPLIT] == [
        DatasetIssue(3, "c.jpg", "in val as x.jpg", (), ("val", 1))
    ]
    assert found["val"][IssueType.IMAGE_IN_OTHER_SPLIT] == [
        DatasetIssue(1, "x.jpg", "in train as c.jpg", (), ("train", 3))
    ]
    assert found["val"][IssueType.DUPLICATE_IMAGE] == []


def stored(looks: list[list[int]]) -> StoredImages:
    """Looks that differ from black in these bits."""
    made = np.zeros((len(looks), 128), np.uint8)
    for row, ones in enumerate(looks):
        made[row, ones] = 1
    return StoredImages(
        np.zeros((len(looks), 4)), np.packbits(made, axis=1), np.ones(len(looks), bool)
    )


SEVEN = [0, 16, 32, 48, 64, 80, 96]  # in seven of eight bands


def test_the_most_alike_picture_of_the_other_split_is_named():
    train, val = labels(("a.jpg", "A"), ("b.jpg", "B")), labels(("v.jpg", "V"))

    found = find_near_duplicates(
        {"train": train, "val": val}, {"train": stored([[], SEVEN]), "val": stored([SEVEN[:6]])}
    )

    detail = "like train b.jpg #1, 1 of 128 bits differ"
    assert found["val"][IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT] == [
        DatasetIssue(0, "v.jpg #0", detail, (), ("train", 1))
    ]
    assert [spot.name for spot in found["train"][IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT]] == [
        "b.jpg #1",
        "a.jpg #0",
    ]
    assert found["train"][IssueType.NEAR_DUPLICATE_IMAGE] == [
        DatasetIssue(1, "b.jpg #1", "like a.jpg #0, 7 of 128 bits differ", (), ("train", 0))
    ]


def test_eight_bits_apart_and_one_picture_twice_are_not_alike():
    train = labels(("a.jpg", "A"), ("b.jpg", "B"), ("b.jpg", "B"))

    found = find_near_duplicates(
        {"train": train}, {"train": stored([[], [*SEVEN, 112], [*SEVEN, 112]])}
    )

    assert found == {
        "train": {IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT: [], IssueType.NEAR_DUPLICATE_IMAGE: []}
    }


def test_a_film_of_a_thousand_frames_is_compared_in_bounded_time():
    frames = [labels(*((f"{n}.jpg", f"{split}{n}") for n in range(count))) for split, count in
              (("train", 3000), ("val", 300))]  # fmt: skip
    looks = {"train": stored([[]] * 3000), "val": stored([[3]] * 300)}

    found = find_near_duplicates(dict(zip(looks, frames, strict=True)), looks)

    assert len(found["val"][IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT]) == 300
    assert (
        len(found["train"][IssueType.NEAR_DUPLICATE_IMAGE]) > 1000
    )  # of two that are most alike the later one


def test_pairs_are_found_as_by_comparing_all(tmp_path: Path):
    rng = np.random.default_rng(5)
    looks = rng.integers(0, 2, (40, 128), np.uint8)
    looks = np.repeat(looks, 5, axis=0) ^ (rng.uniform(size=(200, 128)) < 0.02)
    packed = np.packbits(looks, axis=1)
    telling = np.ones(200, bool)
    telling[::7] = False
    all_of_them = labels(*((f"{row}.jpg", str(row)) for row in range(200)))
    apart = np.bitwise_count(packed[:, None] ^ packed[None]).sum(-1).astype(int)
    apart[~telling], apart[:, ~telling], apart[np.eye(200, dtype=bool)] = 99, 99, 99

    found = find_near_duplicates(
        {"train": all_of_them}, {"train": StoredImages(packed, packed, telling)}
    )

    fewest = apart.min(1)
    for spot in found["train"][IssueType.NEAR_DUPLICATE_IMAGE]:
        assert spot.detail.endswith(f", {fewest[spot.row]} of 128 bits differ")
    assert (
        50
        < len(found["train"][IssueType.NEAR_DUPLICATE_IMAGE])
        <= (fewest <= MAX_HASH_DISTANCE).sum()
    )
