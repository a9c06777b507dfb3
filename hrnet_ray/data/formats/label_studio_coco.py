"""What Label Studio's COCO export loses, given back where an image shows one animal.

It writes all points of an image as one pose, whose box is drawn around the points, and each
rectangle as an annotation of its own. Its file names may lead into its own folders.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from hrnet_ray.data.annotations import parse_numbers
from hrnet_ray.data.formats.coco_document import is_valid_id

ImageRecords = Mapping[int, Mapping[str, Any]]


@dataclass
class NormalizedCocoExport:
    """The two lists of a document, put right; `merged` are ids of poses that are no one's."""

    annotations: list[Mapping[str, Any]]
    images: ImageRecords
    merged_pose_ids: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def normalize_coco_export(document: Mapping[str, Any], images: ImageRecords) -> NormalizedCocoExport:
    """Put right what Label Studio wrote; any other document stays as it is."""
    info = document.get("info")
    if not isinstance(info, dict) or info.get("contributor") != "Label Studio":
        return NormalizedCocoExport(document["annotations"], images)
    found = NormalizedCocoExport(
        document["annotations"],
        images,
        notes=[
            "Label Studio orders names by its list of labels, but points by their model_index: see that both are alike"
        ],
    )
    _normalize_image_names(found)
    _assign_rectangle_boxes(found)
    return found


def _normalize_image_names(coco_export: NormalizedCocoExport) -> None:
    names = {id: image.get("file_name") for id, image in coco_export.images.items()}
    shorter = {id: _normalize_path(name) for id, name in names.items() if isinstance(name, str)}
    changed = {id: name for id, name in shorter.items() if name != names[id]}
    coco_export.images = {
        id: {**image, "file_name": shorter[id]} if id in changed else image for id, image in coco_export.images.items()
    }
    if changed:
        coco_export.notes.append(
            f"{len(changed):,} of {len(names):,} file names led into Label Studio's own folders or "
            "had backslashes, and were shortened"
        )
    if shorter and all(name.startswith("images/") for name in shorter.values()):
        coco_export.notes.append("the file names begin with images/: --images is the folder above it")
    if doubled := len(shorter) - len(set(shorter.values())):
        coco_export.notes.append(f"{doubled:,} images are listed again for another annotator: all their poses are read")


def _normalize_path(name: str) -> str:
    r"""`..\media\upload\4\a.png` -> `a.png`, `images\a.png` -> `images/a.png`."""
    path = PurePosixPath(name.replace("\\", "/"))
    leads_out = path.is_absolute() or ".." in path.parts
    return (path.name if leads_out else str(path)) or name


def _assign_rectangle_boxes(coco_export: NormalizedCocoExport) -> None:
    """Give each pose the one rectangle of its image; separate poses of several rectangles."""
    poses: dict[int, list[int]] = defaultdict(list)
    rectangles: dict[int, list[int]] = defaultdict(list)
    for at, annotation in enumerate(coco_export.annotations):
        image_id = annotation.get("image_id")
        if is_valid_id(image_id):
            kind = poses if annotation.get("keypoints") else rectangles
            kind[image_id].append(at)
    annotations = list(coco_export.annotations)
    given = 0
    for image_id, (at, *others) in poses.items():
        pose, drawn = annotations[at], rectangles[image_id]
        if others or not drawn:
            continue
        if len(drawn) > 1:
            coco_export.merged_pose_ids.add(pose["id"])
        elif _is_pose_in_rectangle(annotations[drawn[0]], pose):
            rectangle = annotations[drawn[0]]
            annotations[at] = {**pose, "bbox": rectangle["bbox"], "area": rectangle.get("area")}
            given += 1
    coco_export.annotations = annotations
    if given:
        coco_export.notes.append(f"{given:,} poses were given the one rectangle that their image has")
    if coco_export.merged_pose_ids:
        coco_export.notes.append(
            f"{len(coco_export.merged_pose_ids):,} poses mix the points of several animals (Label Studio's COCO "
            "has one pose an image) and were skipped: export its JSON instead"
        )


def _is_pose_in_rectangle(rectangle: Mapping[str, Any], pose: Mapping[str, Any]) -> bool:
    """Whether all labelled points lie in the rectangle; False where either cannot be read."""
    points = pose["keypoints"]
    try:
        x, y, w, h = parse_numbers(rectangle.get("bbox"), 4, "bbox").tolist()
        flat = parse_numbers(points, len(points), "keypoints")
    except (ValueError, TypeError):  # reported when the annotation itself is read
        return False
    labelled = flat[: len(flat) // 3 * 3].reshape(-1, 3)
    labelled = labelled[labelled[:, 2] > 0]
    from_center = abs(labelled[:, :2] - (x + w / 2, y + h / 2))
    # Half a pixel of play: this export rounds points, but not rectangles.
    return len(labelled) > 0 and bool((from_center <= (w / 2 + 0.5, h / 2 + 0.5)).all())
