"""Images for benchmarks, in the file layout of MPII: as large and as rich in detail as photos.

Real images are brought to the size asked for; without any, scenery is drawn and given detail at
every scale, as photos have it, so that neither the original nor a reduced copy is too easily coded.
"""

import json
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from hrnet_ray.data.annotations import AnnotationSet
from hrnet_ray.data.formats.mpii import read_mpii
from hrnet_ray.data.images import codec
from hrnet_ray.data.images.codec import cv2
from hrnet_ray.data.synthetic.scenery import draw_foreground, draw_scenery
from hrnet_ray.skeletons import MPII

QUALITY = 90
DETAIL = 5.0  # grey levels of noise in each octave
OCTAVES = 6
GRAIN = 2.0  # grey levels: what a sensor adds to a real image that was enlarged
PEOPLE = 8  # per image
PERSON_FRACS = (0.5, 1.1)  # box side by image height; MPII's own are about so


def write_photos(
    out: Path, *, count: int, size_hw: tuple[int, int], folder: Path | None = None, seed: int = 0
) -> AnnotationSet:
    """Write `count` JPEGs below `out`, with random people in them, as MPII's authors list them."""
    out.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    made = real(folder, rng, size_hw) if folder else drawn(rng, size_hw)
    records = []
    for number, picture in enumerate(islice(made, count)):
        name = f"{number:09d}.jpg"
        (out / name).write_bytes(codec.encode_jpeg(picture, quality=QUALITY))
        records += [_person(rng, name, size_hw) for _ in range(PEOPLE)]
    (out / "train.json").write_text(json.dumps(records))
    return read_mpii(out / "train.json")


def drawn(rng: np.random.Generator, size_hw: tuple[int, int]) -> Iterator[np.ndarray]:
    """Scenery with as much detail in each octave as in the next, for ever."""
    while True:
        picture = draw_scenery(rng, size_hw)
        draw_foreground(rng, picture)
        yield cv2.add(picture, cv2.merge([_detail(rng, size_hw)] * 3), dtype=cv2.CV_8U)


def real(folder: Path, rng: np.random.Generator, size_hw: tuple[int, int]) -> Iterator[np.ndarray]:
    """Cuttings of the images below `folder`, brought to one size, for ever.

    Raises:
        FileNotFoundError: there are no JPEGs.
    """
    height, width = size_hw
    found = sorted(folder.rglob("*.jpg"))
    if not found:
        raise FileNotFoundError(f"no *.jpg below {folder}")
    for path in cycle(found):
        picture = codec.read_image(path)
        scale = max(height / picture.shape[0], width / picture.shape[1]) * rng.uniform(1.0, 1.15)
        rows, columns = (-(-side // scale) for side in size_hw)  # what shows, in its own pixels
        top, left = (
            int(rng.integers(0, max(1, side - shown)))
            for side, shown in zip(picture.shape, (rows, columns), strict=False)
        )
        shown = picture[top : top + int(rows), left : left + int(columns)]
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        enlarged = cv2.resize(shown, (width, height), interpolation=way)
        grain = rng.standard_normal(size_hw, np.float32) * GRAIN
        yield cv2.add(enlarged, cv2.merge([grain] * 3), dtype=cv2.CV_8U)


def _detail(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    height, width = size_hw
    detail = np.zeros(size_hw, np.float32)
    for octave in range(OCTAVES):
        coarse = rng.standard_normal((height >> octave, width >> octave), np.float32)
        wide = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        detail += wide * (DETAIL / wide.std())
    return detail


def _person(rng: np.random.Generator, name: str, size_hw: tuple[int, int]) -> dict:
    """A box somewhere in the middle, with keypoints all over it."""
    height, width = size_hw
    side = rng.uniform(*PERSON_FRACS) * height
    center = rng.uniform((0.3 * width, 0.4 * height), (0.7 * width, 0.6 * height))
    points = center + rng.uniform(-0.45, 0.45, (len(MPII), 2)) * side
    return {
        "image": name,
        "center": center.round(2).tolist(),
        "scale": side / 200,
        "joints": points.round(2).tolist(),
        "joints_vis": [1] * len(MPII),
    }
