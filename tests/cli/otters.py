"""What the tests of the command share: otters, and what spoils their pictures."""

from pathlib import Path

from hrnet_ray.skeletons import Skeleton

PAWS = Skeleton(
    name="otter",
    keypoints=("left_paw", "right_paw", "nose"),
    bones=(("left_paw", "nose"), ("nose", "right_paw")),
)
NAMES = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")


def truncate(path: Path) -> int:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return len(data) // 2
