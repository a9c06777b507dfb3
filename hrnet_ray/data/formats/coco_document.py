"""A COCO document as a file has it: its lists, its ids, and the skeleton of its categories."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from hrnet_ray.data.annotations import load_json_file
from hrnet_ray.errors import DataError, format_list
from hrnet_ray.skeletons import (
    SKELETONS,
    Skeleton,
    from_coco_category,
    from_dict,
    normalize_keypoint_name,
    to_dict,
)


def load_document(path: Path) -> Any:
    """The parsed content of the file."""
    return load_json_file(path, fix="give the COCO annotation file")


def validate_document(document: Any, path: Path) -> dict[str, Any]:
    """Refuse what has not both lists, `images` and `annotations`."""
    lists = ("images", "annotations")
    if isinstance(document, dict) and all(isinstance(document.get(name), list) for name in lists):
        return document
    raise DataError(
        "a JSON file that is no COCO document",
        f"{path}: the lists `images` and `annotations` are not both there",
        "give the COCO annotation file (`hrnet-ray prepare mpii` reads MPII's)",
    )


def index_by_id(records: list[Any], kind: str, path: Path) -> dict[int, dict[str, Any]]:
    """Records by their id; refuses one without, and two of one id."""
    found: dict[int, dict[str, Any]] = {}
    for at, record in enumerate(records):
        where = f"{path.name}: {kind}s[{at}]"
        if not isinstance(record, dict) or not is_valid_id(record.get("id")):
            raise DataError(f"an {kind} without a whole number as id", where, "correct this entry")
        if record["id"] in found:
            raise DataError(f"two {kind}s with id {record['id']}", where, "give each its own id")
        found[record["id"]] = record
    return found


def is_valid_id(value: object) -> TypeGuard[int]:
    """A whole number that a column of 64 bits can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def infer_skeleton(document: Mapping[str, Any], path: Path) -> Skeleton:
    """The skeleton on which all categories that are used agree."""
    used = _select_used_categories(document, path)
    lists = {tuple(category["keypoints"]) for category in used}
    if len(lists) != 1:
        raise _make_ambiguous_skeleton_error(len(lists), document, path)
    where = f"{path.name}: category {used[0]['id']}"
    try:
        found = to_dict(from_coco_category(used[0], name=path.stem if len(used) > 1 else None))
    except DataError as error:
        raise DataError(error.what, f"{where}, {error.where}", error.fix) from error
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise DataError(
            f"a category that cannot be read ({reason})", where, "correct it, or name --skeleton"
        ) from error
    return from_dict(found, where=where)  # as a manifest will bring it back


def fill_known_sigmas(skeleton: Skeleton) -> Skeleton:
    """A category's skeleton with the sigmas that are known of the very same keypoints."""
    known = next((one for one in SKELETONS.values() if one.keypoints == skeleton.keypoints), None)
    if not known or skeleton.oks_sigmas:
        return skeleton
    return replace(
        skeleton,
        oks_sigmas=known.oks_sigmas,
        other_oks_sigmas=known.other_oks_sigmas,
        upper_body=skeleton.upper_body or known.upper_body,
    )


def find_mismatched_categories(document: Mapping[str, Any], skeleton: Skeleton, path: Path) -> set[int]:
    """Categories with another number of keypoints, where there is one with the right number.

    Without a matching category the skeleton is not this file's; the error names the first annotation.
    """
    numbers = {one["id"]: len(one["keypoints"]) for one in _select_used_categories(document, path)}
    others = {id for id, number in numbers.items() if number != len(skeleton)}
    return others if len(others) < len(numbers) else set()


def validate_keypoint_order(document: Mapping[str, Any], skeleton: Skeleton, path: Path) -> list[str]:
    """Refuse a given skeleton whose names stand elsewhere in the file: points would be misread.

    Names that only the file has are listed in notes: a tool may name the same points differently.
    """
    wanted, notes = [normalize_keypoint_name(name) for name in skeleton.keypoints], []
    for category in _select_used_categories(document, path):
        names = category["keypoints"]
        found = [normalize_keypoint_name(name) for name in names]
        if found == wanted or len(found) != len(wanted):  # the number is looked at elsewhere
            continue
        pairs = list(zip(names, skeleton.keypoints, found, wanted, strict=True))
        if any(plain != want and plain in wanted for *_, plain, want in pairs):
            raise DataError(
                f"the keypoints of {skeleton.name!r}, but in another order",
                f"{path.name}: category {category['id']} has {', '.join(names)}",
                "leave --skeleton out, or give a YAML file with the names in this order",
            )
        other = [f"{a} as {b}" for a, b, plain, want in pairs if plain != want]
        notes.append(
            f"category {category['id']} has other names than the skeleton; by their place, it was "
            f"taken {format_list(other)}"
        )
    return notes


def _select_used_categories(document: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """Categories with keypoints that an annotation has; all with keypoints, where none has."""
    categories = _parse_keypoint_categories(document, path)
    ids = [annotation.get("category_id") for annotation in document["annotations"]]
    used_ids = {id for id in ids if isinstance(id, int)}
    return [category for category in categories if category["id"] in used_ids] or categories


def _parse_keypoint_categories(document: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """Those with names of keypoints."""
    categories = document.get("categories") or []
    if not isinstance(categories, list):
        categories = [categories]  # reported as the first that does not fit
    for at, category in enumerate(categories):
        names = category.get("keypoints") or [] if isinstance(category, dict) else None
        if (
            not isinstance(names, list)
            or not all(isinstance(name, str) for name in names)
            or not isinstance(category.get("id"), int)
        ):
            raise DataError(
                "a category without a whole number as id, or whose keypoints are not names",
                f"{path.name}: categories[{at}]",
                "correct this entry, or name the skeleton: --skeleton",
            )
    return [category for category in categories if category.get("keypoints")]


def _make_ambiguous_skeleton_error(num_keypoint_lists: int, document: Mapping[str, Any], path: Path) -> DataError:
    fix = "name it: --skeleton mpii, atrw, coco, or a YAML file"
    if not num_keypoint_lists and not any(one.get("keypoints") for one in document["annotations"]):
        # Boxes only, or one category per keypoint: the file does not group points into instances.
        fix = "no annotation has keypoints: export CVAT's `COCO Keypoints 1.0`, Label Studio's JSON"
    has = f"{num_keypoint_lists} different lists of keypoints" if num_keypoint_lists else "no keypoints"
    return DataError(f"categories with {has}: the skeleton is not clear", f"{path}: categories", fix)
