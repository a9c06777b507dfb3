"""Damaged JPEGs by the thousand: each becomes an image or a refusal, soon, and in little memory.

They are decoded in a process of their own, which a fault in a decoder may end, and which may not
take much memory. MUTATED_JPEGS=10000 in the environment asks for more than the 1,000 of every day.
"""

import json
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from hrnet_ray.data.images import codec
from tests.data.hostile import segments, with_orientation

COUNT = int(os.environ.get("MUTATED_JPEGS", "1000"))
SEED = 20
MOST_S, MOST_MB = 2.0, 300
SIZES_HW = ((1, 1), (17, 9), (48, 48), (64, 80), (240, 320))
SCAN, FRAMES = 0xDA, (0xC0, 0xC2)


def seeds() -> list[bytes]:
    """Twenty sound JPEGs: each size plain, progressive, without colour, and with all colour."""
    return [jpeg for size_hw in SIZES_HW for jpeg in _four_kinds(size_hw)]


def _four_kinds(size_hw: tuple[int, int]) -> Iterator[bytes]:
    picture = cv2.resize(np.random.default_rng(SEED).integers(0, 256, (5, 7, 3), dtype=np.uint8), size_hw[::-1])
    full = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    for stored, options in (
        (picture, []),
        (picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 3]),
        (picture[..., 0], [cv2.IMWRITE_JPEG_OPTIMIZE, 1]),
        (picture, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full]),
    ):
        jpeg = cv2.imencode(".jpg", stored, options)[1].tobytes()
        yield with_orientation(jpeg) if options == [] else jpeg


def mutant(sound: list[bytes], draw: random.Random) -> bytes:
    """One of the JPEGs, damaged once or twice."""
    data = draw.choice(sound)
    for _ in range(draw.choice((1, 1, 2))):
        damage = draw.choice((_flip, _cut, _splice, _edit_header))
        data = damage(data, sound, draw)
    return data


def _flip(data: bytes, sound: list[bytes], draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(data: bytes, sound: list[bytes], draw: random.Random) -> bytes:
    """Leave out the end, or a part."""
    first, last = sorted(draw.randint(0, len(data)) for _ in range(2))
    return data[:last] if draw.random() < 0.5 else data[:first] + data[last:]


def _splice(data: bytes, sound: list[bytes], draw: random.Random) -> bytes:
    """Go on with another JPEG, or with a part of this one again."""
    other = draw.choice((data, draw.choice(sound)))
    return data[: draw.randint(0, len(data))] + other[draw.randint(0, len(other)) :]


def _edit_header(data: bytes, sound: list[bytes], draw: random.Random) -> bytes:
    """Write extreme numbers over the sizes, or anywhere before the first scan."""
    changed = bytearray(data)
    try:
        starts = dict(segments(data))
    except IndexError:  # damaged already
        starts = {}
    frame = next((starts[marker] for marker in FRAMES if marker in starts), None)
    if frame is not None and draw.random() < 0.5:
        places = range(frame + 4, frame + 10)
    else:
        places = range(2, max(3, starts.get(SCAN, len(data))))
    for _ in range(draw.randint(1, 3)):
        at = draw.choice(places)
        value = draw.choice((0, 1, 0x10, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        changed[at : at + 1] = bytes([value])
    return bytes(changed)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(count: int) -> None:
    """Decode them all. Prints the number of each before it, so that the last one is the culprit."""
    sound = seeds()
    assert all(codec.decode_image(data) is not None for data in sound)
    limit = _address_space() + 2 * MOST_MB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before_mb, slowest_s, outcomes = _peak_mb(), 0.0, Counter()
    for at in range(count):
        print(at, flush=True)
        data = mutant(sound, random.Random(f"{SEED} {at}"))
        began = time.perf_counter()
        outcomes[_outcome(data)] += 1
        slowest_s = max(slowest_s, time.perf_counter() - began)
    grown_mb = _peak_mb() - before_mb
    print(json.dumps({"slowest_s": slowest_s, "grown_mb": grown_mb, "outcomes": outcomes}))


def _outcome(data: bytes) -> str:
    opened = codec.decode_or_reject(data)
    if isinstance(opened, codec.RejectedImage):
        assert isinstance(opened.reason, codec.RejectReason)
        assert opened.detail.isprintable()
        return opened.reason
    assert opened.dtype == np.uint8
    assert opened.shape == (*(codec.read_size_hw(data) or ()), 3)
    return "picture"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in Linux's way")
@pytest.mark.timeout(60 + COUNT // 50)
def test_a_mutated_jpeg_is_a_picture_or_is_refused(root: Path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.images.test_mutated_jpegs", str(COUNT)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=50 + COUNT / 50,
    )

    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"mutant {lines[-1:]}: {done.stderr[-2000:]}"
    told = json.loads(lines[-1])
    assert told["slowest_s"] <= MOST_S
    assert told["grown_mb"] <= MOST_MB
    outcomes = told["outcomes"]
    assert sum(outcomes.values()) == COUNT == len(lines) - 1
    # The mutants must not all be of one kind, or they would test little.
    assert {"picture", "not an image", "cut off", "damaged", "too many pixels"} <= outcomes.keys()
    assert outcomes["picture"] > COUNT / 10


if __name__ == "__main__":
    main(int(sys.argv[1]))
