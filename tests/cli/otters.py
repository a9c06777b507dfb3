"""The skeleton and image names of the otters, and a way to corrupt an image."""

from pathlib import Path

from hrnet_ray.skeletons import Skeleton

PAWS = Skeleton(
    name="otter",
    keypoints=("left_paw", "right_paw", "nose"),
    bones=(("left_paw", "nose"), ("nose", "right_paw")),
)
NAMES = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")


def truncate(path: Path) -> int:
    """Cut a file in half and return its new size in bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return len(data) // 2
