"""Small dataset with hostile names, for the tests of the dataset report."""

import json
import shutil
from pathlib import Path

from hrnet_ray.data.dataset_preparation import SplitSource, prepare_dataset
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.data.synthetic.datasets import write_tiger_dataset

HOSTILE, FORMULA, ANSI = "<script>alert(1).jpg", "=bill().jpg", "\x1b[31mred\nline.jpg"
IMAGE_HW = (90, 120)
CATEGORY = {
    "id": 1,
    "name": "cat",
    "keypoints": ["=nose()", "left_paw", "right_paw", "tail"],
    "skeleton": [[1, 2], [1, 3], [1, 4]],
}
HIDDEN = (0, 0, 0)


def annotation(id: int, image: int, box: list[float], *points: tuple[float, ...], **more) -> dict:
    keypoints = [number for point in points for number in (point if point[2:] else (*point, 2))]
    return {"id": id, "image_id": image, "category_id": 1, "bbox": box, "keypoints": keypoints} | {**more}


# Boxes get 1 px shorter, as in the published code: the first is (20, 20) to (79, 59).
TRAIN = [
    annotation(10, 0, [20, 20, 60, 40], (30, 30), (40, 50), (70, 40), (60, 30)),
    annotation(11, 1, [10, 10, 30, 60], (15, 15), (38, 69), (41.5, 40), HIDDEN),  # box ends at 39
    annotation(12, 2, [80, 50, 39, 39], (100, 60), (121.5, 70), (90, 80), HIDDEN),  # image: 119
    annotation(13, 2, [0, 0, 9, 9], (1, 1), (2, 2), (3, 3), (4, 4), iscrowd=1),
    annotation(14, 2, [0, 0, 9, 9], HIDDEN, HIDDEN, HIDDEN, HIDDEN),
    annotation(15, 4, [20, 20, 60, 40], (30, 30), (40, 50), (70, 40), (60, 30)),
]
VAL = [annotation(20, 3, [10, 20, 80, 60], (30, 30), (40, 50), (70, 40), HIDDEN)]


def write_coco(path: Path, names: dict[int, str], annotations: list[dict]) -> None:
    height, width = IMAGE_HW
    images = [{"id": i, "file_name": n, "width": width, "height": height} for i, n in names.items()]
    content = {"images": images, "annotations": annotations, "categories": [CATEGORY]}
    path.write_text(json.dumps(content))


def write_cats(raw: Path) -> DatasetManifest:
    """Synthetic tigers with hostile names; `copy.jpg` in val is an image of train."""
    write_tiger_dataset(raw, num_train=4, num_val=1, size_hw=IMAGE_HW, tigers_per_image=(1, 1))
    images = raw / "images" / "train"
    for number, name in enumerate(("plain.jpg", HOSTILE, FORMULA, ANSI)):
        (images / f"{number:06d}.jpg").rename(images / name)
    shutil.copy(images / FORMULA, images / "copy.jpg")
    write_coco(raw / "train.json", {0: "plain.jpg", 1: HOSTILE, 2: FORMULA, 4: ANSI}, TRAIN)
    write_coco(raw / "val.json", {3: "copy.jpg"}, VAL)
    sources = {s: SplitSource(read_coco(raw / f"{s}.json"), images) for s in ("train", "val")}
    return prepare_dataset(sources, out=raw / "prepared", name="<b>cats</b>")
