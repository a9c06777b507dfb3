"""A detector's file: what is taken, what is left out and counted, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from hrnet_ray.errors import DataError
from hrnet_ray.metrics.detections import load_coco_detections

PICTURES: dict[int | str, int] = {70: 0, 71: 1, "a.jpg": 0, "b.jpg": 1}


def detection(image: int | str = 70, **changed: Any) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": 1,
        "bbox": [1, 2, 30, 40.5],
        "score": 0.9,
        **changed,
    }


def read(path: Path, content: Any):
    file = path / "boxes.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return load_coco_detections(file, image_indices=PICTURES, category_ids={1, 4})


def test_boxes_come_ordered_by_their_pictures(tmp_path: Path):
    boxes = read(
        tmp_path,
        [detection(71, score=0.5), detection(70, category_id=4), detection("b.jpg", score=1)],
    )

    assert boxes.image_index.tolist() == [0, 1, 1]
    assert boxes.category_id.tolist() == [4, 1, 1]
    assert boxes.score.tolist() == [0.9, 0.5, 1.0]
    assert boxes.box_xywh.tolist() == [[1, 2, 30, 40.5]] * 3
    assert boxes.skipped_counts == {}


def test_what_cannot_be_used_is_counted(tmp_path: Path):
    content = [
        detection(),
        detection(99),
        detection("c.jpg"),
        detection(category_id=2),
        detection(bbox=[0, 0, 0, 5]),
    ]

    boxes = read(tmp_path, content)

    assert boxes.skipped_counts == {"other image": 2, "other category": 1, "empty box": 1}
    assert boxes.num_read == len(content)
    assert len(boxes.score) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "Expecting property name"),
        ({"annotations": []}, "the file holds {'annotations': []} where a list is wanted"),
        ([7], "[0] is 7 where an object is wanted"),
        ([detection(), {"image_id": 70}], "[1] has no category_id"),
        ([detection(bbox=[1, 2, 3])], "[0].bbox is [1, 2, 3] where 4 numbers are wanted"),
        ([detection(score="high")], "[0].score is 'high' where a number is wanted"),
        ([detection(score=float("nan"))], "[0].score is nan where a number is wanted"),
        ([detection(True)], "[0] is of image True and category 1"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_file_in_another_form_is_refused(tmp_path: Path, content: Any, said: str):
    with pytest.raises(DataError, match="detections that cannot be read") as refused:
        read(tmp_path, content)

    assert said in refused.value.where
    assert str(refused.value).count("\n") == 2


def test_categories_that_differ_are_told_side_by_side(tmp_path: Path):
    with pytest.raises(DataError) as refused:
        read(tmp_path, [detection(category_id=18), detection(category_id=17)])

    assert str(refused.value) == (
        "detections of other categories than the data\n"
        f"  --boxes {tmp_path / 'boxes.json'}: category_id 17, 18 | data: 1, 4\n"
        "  fix: write the data's category_id into the detections of the same species"
    )


def test_detections_of_other_pictures_only_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="detections without one that can be used") as refused:
        read(tmp_path, [detection(1), detection(2)])

    assert "2 other image; image_id 1, 2" in refused.value.where


def test_no_detections_and_no_file_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="no detections"):
        read(tmp_path, [])
    with pytest.raises(DataError, match="the file is not there"):
        load_coco_detections(tmp_path / "none.json", image_indices=PICTURES, category_ids={1})
