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


def compress(image: np.ndarray) -> np.ndarray:
    decoded = codec.decode_image(codec.encode_jpeg(image, quality=50))
    assert decoded is not None
    return decoded


def halve_size(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def brighten(image: np.ndarray) -> np.ndarray:
    return (image * 0.85 + 30).astype(np.uint8)


def count_different_bits(image: np.ndarray, other: np.ndarray) -> int:
    return int(np.bitwise_count(compute_perceptual_hash(image)[0] ^ compute_perceptual_hash(other)[0]).sum())


@pytest.mark.parametrize("change", [compress, halve_size, brighten])
def test_a_changed_copy_has_a_similar_hash(scenes: list[np.ndarray], change):
    distances = [count_different_bits(scene, change(scene)) for scene in scenes]

    print(f"{change.__name__}: at most {max(distances)} of 128 bits differ")
    assert max(distances) <= MAX_HASH_DISTANCE


def test_different_scenes_have_different_hashes(scenes: list[np.ndarray]):
    distances = [count_different_bits(a, b) for index, a in enumerate(scenes) for b in scenes[:index]]

    print(f"{len(distances)} pairs: at least {min(distances)} of 128 bits differ")
    assert min(distances) > 2 * MAX_HASH_DISTANCE


def test_the_hash_of_a_flat_image_is_not_valid():
    assert not compute_perceptual_hash(np.full((60, 80, 3), 200, np.uint8))[1]
    assert compute_perceptual_hash(np.tile(np.arange(80, dtype=np.uint8)[None, :, None], (60, 1, 3)))[1]


def make_labels(*rows: tuple[str, str]) -> dict[str, np.ndarray]:
    """Rows with these names and SHA-256 values, and ids from 0."""
    images, sha256 = zip(*rows, strict=True)
    ids = np.arange(len(images))
    return {"id": ids, "image": np.array(images, object), "sha256": np.array(sha256, object)}


def test_copies_are_found_by_their_bytes_not_by_their_names():
    train = make_labels(("a.jpg", "A"), ("a.jpg", "A"), ("b.jpg", "A"), ("c.jpg", "C"), ("b.jpg", "A"))
    val = make_labels(("a.jpg", "other"), ("x.jpg", "C"), ("x.jpg", "C"))

    issues = find_exact_duplicates({"train": train, "val": val})

    assert issues["train"][IssueType.DUPLICATE_IMAGE] == [DatasetIssue(2, "b.jpg", "as a.jpg")]
    assert issues["train"][IssueType.IMAGE_IN_OTHER_SPLIT] == [
        DatasetIssue(3, "c.jpg", "in val as x.jpg", (), ("val", 1))
    ]
    assert issues["val"][IssueType.IMAGE_IN_OTHER_SPLIT] == [
        DatasetIssue(1, "x.jpg", "in train as c.jpg", (), ("train", 3))
    ]
    assert issues["val"][IssueType.DUPLICATE_IMAGE] == []


def make_stored_images(set_bits: list[list[int]]) -> StoredImages:
    """Images whose hashes have these bits set."""
    bits = np.zeros((len(set_bits), 128), np.uint8)
    for row, ones in enumerate(set_bits):
        bits[row, ones] = 1
    return StoredImages(np.zeros((len(set_bits), 4)), np.packbits(bits, axis=1), np.ones(len(set_bits), bool))


SEVEN = [0, 16, 32, 48, 64, 80, 96]  # in seven of eight bands


def test_the_most_similar_image_of_the_other_split_is_named():
    train, val = make_labels(("a.jpg", "A"), ("b.jpg", "B")), make_labels(("v.jpg", "V"))

    issues = find_near_duplicates(
        {"train": train, "val": val},
        {"train": make_stored_images([[], SEVEN]), "val": make_stored_images([SEVEN[:6]])},
    )

    detail = "like train b.jpg #1, 1 of 128 bits differ"
    assert issues["val"][IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT] == [
        DatasetIssue(0, "v.jpg #0", detail, (), ("train", 1))
    ]
    assert [issue.name for issue in issues["train"][IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT]] == [
        "b.jpg #1",
        "a.jpg #0",
    ]
    assert issues["train"][IssueType.NEAR_DUPLICATE_IMAGE] == [
        DatasetIssue(1, "b.jpg #1", "like a.jpg #0, 7 of 128 bits differ", (), ("train", 0))
    ]


def test_eight_different_bits_and_rows_of_one_image_are_not_similar():
    train = make_labels(("a.jpg", "A"), ("b.jpg", "B"), ("b.jpg", "B"))

    issues = find_near_duplicates({"train": train}, {"train": make_stored_images([[], [*SEVEN, 112], [*SEVEN, 112]])})

    assert issues == {"train": {IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT: [], IssueType.NEAR_DUPLICATE_IMAGE: []}}


def test_a_video_with_thousands_of_frames_is_compared():
    frames = [make_labels(*((f"{n}.jpg", f"{split}{n}") for n in range(count))) for split, count in
              (("train", 3000), ("val", 300))]  # fmt: skip
    images = {"train": make_stored_images([[]] * 3000), "val": make_stored_images([[3]] * 300)}

    issues = find_near_duplicates(dict(zip(images, frames, strict=True)), images)

    assert len(issues["val"][IssueType.NEAR_DUPLICATE_IN_OTHER_SPLIT]) == 300
    assert len(issues["train"][IssueType.NEAR_DUPLICATE_IMAGE]) > 1000  # of the two most similar frames the later one


def test_pairs_are_those_of_an_exhaustive_comparison(tmp_path: Path):
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 2, (40, 128), np.uint8)
    bits = np.repeat(bits, 5, axis=0) ^ (rng.uniform(size=(200, 128)) < 0.02)
    packed = np.packbits(bits, axis=1)
    is_valid = np.ones(200, bool)
    is_valid[::7] = False
    train = make_labels(*((f"{row}.jpg", str(row)) for row in range(200)))
    distances = np.bitwise_count(packed[:, None] ^ packed[None]).sum(-1).astype(int)
    distances[~is_valid], distances[:, ~is_valid], distances[np.eye(200, dtype=bool)] = 99, 99, 99

    issues = find_near_duplicates({"train": train}, {"train": StoredImages(packed, packed, is_valid)})

    fewest = distances.min(1)
    for issue in issues["train"][IssueType.NEAR_DUPLICATE_IMAGE]:
        assert issue.detail.endswith(f", {fewest[issue.row]} of 128 bits differ")
    assert 50 < len(issues["train"][IssueType.NEAR_DUPLICATE_IMAGE]) <= (fewest <= MAX_HASH_DISTANCE).sum()
