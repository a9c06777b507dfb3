"""Where the pictures and labels of a YOLO-pose data set lie."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hrnet_ray.data.annotations import is_file, shown, text_of
from hrnet_ray.data.images import codec
from hrnet_ray.errors import DataError, shortened

LABELS, LIST = ".txt", ".txt"
OTHER_PICTURES = (".gif", ".heic", ".heif", ".avif", ".dng", ".mpo", ".pfm", ".jp2", ".raw")
"""What other programs read, and this one does not."""


@dataclass
class Found:
    """The pictures of a split, in the order of their names, and what was passed over."""

    pictures: list[Path] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    """Pictures of kinds that are not read."""
    linked: list[str] = field(default_factory=list)
    """Folders that are links: nobody looked into them."""


def find(entries: Mapping[str, Any], entry: str, config: Path) -> Found:
    """All pictures that an entry of the data.yaml leads to: folders, or lists of pictures.

    Raises:
        DataError: there are none, the folder is not there, or a picture is a link out of it.
    """
    value, found = entries[entry], Found()
    for name in value if isinstance(value, list) else [value]:
        place = _place(entries, name, entry, config)
        if place.is_file() and place.suffix == LIST:
            found.pictures += _listed(place)
        else:
            _look_into(place, found)
    found.pictures = sorted(set(found.pictures))
    if not found.pictures:
        raise DataError(
            f"no pictures for {entry}",
            f"{config}: {entry}: {shown(value)}",
            f"correct the folder; {', '.join(codec.PICTURE_ENDINGS)} are read",
        )
    return found


def labels_of(picture: Path) -> Path:
    """`a/labels/b/1.txt` for `a/images/b/1.jpg`: the last `images` counts."""
    parts = list(picture.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(LABELS)


def _place(entries: Mapping[str, Any], name: object, entry: str, config: Path) -> Path:
    """Where a folder or a list of pictures lies: from `path`, or from the data.yaml itself.

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
        f"the pictures for {entry} are not there",
        f"{config}: {entry}: {shown(name)}",
        f"correct `path` and the folder (from the data.yaml on), or leave `{entry}` out",
    )


def _look_into(folder: Path, found: Found) -> None:
    real = folder.resolve()
    for at, below, files in os.walk(folder):
        found.linked += [name for name in below if Path(at, name).is_symlink()]
        for name in files:
            path = Path(at, name)
            if name.lower().endswith(OTHER_PICTURES):
                found.unread.append(name)
            if not name.lower().endswith(codec.PICTURE_ENDINGS) or not is_file(path):
                continue
            if not path.resolve().is_relative_to(real):
                raise DataError(
                    "a picture that is a link out of its folder",
                    str(path),
                    "copy the picture there: no link is followed to elsewhere",
                )
            found.pictures.append(path)


def _listed(path: Path) -> Iterator[Path]:
    """The pictures that a text file names, from its own folder on."""
    for line in text_of(path).splitlines():
        name = line.strip().replace("\\", "/")
        if name.lower().endswith(codec.PICTURE_ENDINGS):
            yield Path(os.path.normpath(path.parent / name))


def passed_over(parts: Mapping[str, Found]) -> Iterator[str]:
    """Notes on what was seen and not read."""
    for split, found in parts.items():
        if found.unread:
            names = shortened(sorted(found.unread))
            yield f"{split}: {len(found.unread):,} pictures of kinds that are not read: {names}"
        if found.linked:
            names = shortened(sorted(found.linked))
            yield f"{split}: {len(found.linked):,} linked folders were not looked into: {names}"
