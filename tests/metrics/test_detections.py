"""Detection files: used boxes, skipped boxes and refused files."""

import json
from pathlib import Path
from typing import Any

import pytest

from hrnet_ray.errors import DataError
from hrnet_ray.metrics.detections import load_coco_detections

IMAGE_INDICES: dict[int | str, int] = {70: 0, 71: 1, "a.jpg": 0, "b.jpg": 1}


def make_detection(image: int | str = 70, **changed: Any) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": 1,
        "bbox": [1, 2, 30, 40.5],
        "score": 0.9,
        **changed,
    }


def load_detections(path: Path, content: Any):
    file = path / "boxes.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return load_coco_detections(file, image_indices=IMAGE_INDICES, category_ids={1, 4})


def test_boxes_are_sorted_by_image(tmp_path: Path):
    boxes = load_detections(
        tmp_path,
        [make_detection(71, score=0.5), make_detection(70, category_id=4), make_detection("b.jpg", score=1)],
    )

    assert boxes.image_index.tolist() == [0, 1, 1]
    assert boxes.category_id.tolist() == [4, 1, 1]
    assert boxes.score.tolist() == [0.9, 0.5, 1.0]
    assert boxes.box_xywh.tolist() == [[1, 2, 30, 40.5]] * 3
    assert boxes.skipped_counts == {}


def test_unusable_boxes_are_counted_by_reason(tmp_path: Path):
    content = [
        make_detection(),
        make_detection(99),
        make_detection("c.jpg"),
        make_detection(category_id=2),
        make_detection(bbox=[0, 0, 0, 5]),
    ]

    boxes = load_detections(tmp_path, content)

    assert boxes.skipped_counts == {"other image": 2, "other category": 1, "empty box": 1}
    assert boxes.num_read == len(content)
    assert len(boxes.score) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting property name"),
        ({"annotations": []}, "expected a list, got {'annotations': []}"),
        ([7], "[0] must be an object, got 7"),
        ([make_detection(), {"image_id": 70}], "[1] has no category_id"),
        ([make_detection(bbox=[1, 2, 3])], "[0].bbox is [1, 2, 3] where 4 numbers are wanted"),
        ([make_detection(score="high")], "[0].score is 'high' where a number is wanted"),
        ([make_detection(score=float("nan"))], "[0].score is nan where a number is wanted"),
        ([make_detection(True)], "[0] has an invalid image_id True or category_id 1"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, content: Any, message: str):
    with pytest.raises(DataError, match="the detections cannot be read") as refused:
        load_detections(tmp_path, content)

    assert message in refused.value.where
    assert str(refused.value).count("\n") == 2


def test_different_categories_of_detections_and_data_are_reported(tmp_path: Path):
    with pytest.raises(DataError) as refused:
        load_detections(tmp_path, [make_detection(category_id=18), make_detection(category_id=17)])

    assert str(refused.value) == (
        "the detections and the data have different categories\n"
        f"  --boxes {tmp_path / 'boxes.json'}: category_id 17, 18 | data: 1, 4\n"
        "  fix: set category_id of the detections to that of the same category in the data"
    )


def test_detections_of_unknown_images_only_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="none of the detections is usable") as refused:
        load_detections(tmp_path, [make_detection(1), make_detection(2)])

    assert "2 other image; image_id 1, 2" in refused.value.where


def test_an_empty_and_a_missing_file_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="the file holds no detections"):
        load_detections(tmp_path, [])
    with pytest.raises(DataError, match="the file is not there"):
        load_coco_detections(tmp_path / "none.json", image_indices=IMAGE_INDICES, category_ids={1})
