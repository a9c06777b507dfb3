"""Where the images and labels of a YOLO-pose data set lie."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hrnet_ray.data.annotations import build_count_note, format_value, is_regular_file, read_text_file
from hrnet_ray.data.images import codec
from hrnet_ray.errors import DataError

LABEL_SUFFIX, LIST_SUFFIX = ".txt", ".txt"
UNSUPPORTED_IMAGE_SUFFIXES = (
    ".gif",
    ".heic",
    ".heif",
    ".avif",
    ".dng",
    ".mpo",
    ".pfm",
    ".jp2",
    ".raw",
)
"""What other programs read, and this one does not."""


@dataclass
class ImageListing:
    """The images of a split, in the order of their names, and what was passed over."""

    image_paths: list[Path] = field(default_factory=list)
    unsupported_names: list[str] = field(default_factory=list)
    """Images of kinds that are not read."""
    linked_dirs: list[str] = field(default_factory=list)
    """Linked folders, which are not searched."""


def list_images(entries: Mapping[str, Any], entry: str, config: Path) -> ImageListing:
    """All images that an entry of the data.yaml leads to: folders, or lists of images.

    Raises:
        DataError: there are none, the folder is not there, or an image is a link out of it.
    """
    value, found = entries[entry], ImageListing()
    for name in value if isinstance(value, list) else [value]:
        place = _resolve_entry_path(entries, name, entry, config)
        if place.is_file() and place.suffix == LIST_SUFFIX:
            found.image_paths += _read_image_list(place)
        else:
            _collect_images(place, found)
    found.image_paths = sorted(set(found.image_paths))
    if not found.image_paths:
        raise DataError(
            f"no images for {entry}",
            f"{config}: {entry}: {format_value(value)}",
            f"correct the folder; {', '.join(codec.IMAGE_SUFFIXES)} are read",
        )
    return found


def resolve_label_path(image_path: Path) -> Path:
    """`a/labels/b/1.txt` for `a/images/b/1.jpg`: the last `images` counts."""
    parts = list(image_path.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(LABEL_SUFFIX)


def _resolve_entry_path(entries: Mapping[str, Any], name: object, entry: str, config: Path) -> Path:
    """Where a folder or a list of images lies: from `path`, or from the data.yaml itself.

    Roboflow writes `../train/images` for what lies beside its data.yaml. A folder that is a link
    was named by the user, and is followed.
    """
    if isinstance(name, str) and name:
        here, path = config.absolute().parent, entries.get("path")
        roots = [here / path, here] if isinstance(path, str) else [here]
        for root in roots:
            for start in (name, name.removeprefix("../")):
                found = Path(os.path.normpath(root / start))
                try:
                    if found.exists():
                        return found
                except (OSError, ValueError):  # a name that no file can have
                    continue
    raise DataError(
        f"the images for {entry} are not there",
        f"{config}: {entry}: {format_value(name)}",
        f"correct `path` and the folder (from the data.yaml on), or leave `{entry}` out",
    )


def _collect_images(folder: Path, listing: ImageListing) -> None:
    real = folder.resolve()
    for at, below, files in os.walk(folder):
        listing.linked_dirs += [name for name in below if Path(at, name).is_symlink()]
        for name in files:
            path = Path(at, name)
            if name.lower().endswith(UNSUPPORTED_IMAGE_SUFFIXES):
                listing.unsupported_names.append(name)
            if not name.lower().endswith(codec.IMAGE_SUFFIXES) or not is_regular_file(path):
                continue
            if not path.resolve().is_relative_to(real):
                raise DataError(
                    "an image that is a link out of its folder",
                    str(path),
                    "copy the image there: no link is followed to elsewhere",
                )
            listing.image_paths.append(path)


def _read_image_list(path: Path) -> Iterator[Path]:
    """The images that a text file names, from its own folder on."""
    for line in read_text_file(path).splitlines():
        name = line.strip().replace("\\", "/")
        if name.lower().endswith(codec.IMAGE_SUFFIXES):
            yield Path(os.path.normpath(path.parent / name))


def describe_skipped_files(listings: Mapping[str, ImageListing]) -> Iterator[str]:
    """Notes on what was seen and not read."""
    for split, found in listings.items():
        notes = build_count_note(sorted(found.unsupported_names), "images of kinds that are not read")
        notes += build_count_note(sorted(found.linked_dirs), "linked folders were not looked into")
        yield from (f"{split}: {note}" for note in notes)
