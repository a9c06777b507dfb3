"""The labels of a split, and which rows share a picture."""

from dataclasses import dataclass

import numpy as np

from hrnet_ray.data import records
from hrnet_ray.data.manifest import Manifest, read_table
from hrnet_ray.errors import DataError


@dataclass(frozen=True)
class Labelled:
    """The truth of a split, in the order of its row ids, and its pictures."""

    truth: records.Arrays
    """The label columns, and `picture`: int64 [N], the place of its picture in `pictures`."""
    images: list[str]
    """The file name of each row's picture."""
    pictures: list[str]
    """File names, in the order of their image ids."""

    def __len__(self) -> int:
        return len(self.images)

    def places(self) -> dict[int | str, int]:
        """The place of a picture by any of its image ids, and by its file name."""
        by_id = zip(self.truth["image_id"].tolist(), self.truth["picture"].tolist(), strict=True)
        return {**dict(by_id), **{name: at for at, name in enumerate(self.pictures)}}

    def only(self, kept: np.ndarray) -> "Labelled":
        """Some of the rows (bool [N]), and the pictures that they are in."""
        truth = {name: column[kept] for name, column in self.truth.items()}
        return _labelled(truth, [self.images[at] for at in np.flatnonzero(kept)])


def read_labels(manifest: Manifest, split: str) -> Labelled:
    """The labels of a split; its pictures are not read.

    Raises:
        DataError: there is no such split, it is damaged, or it has no rows.
    """
    if not manifest.shards(split):
        raise DataError(
            "nothing to score",
            f"{split} of {manifest.root} has no rows",
            f"prepare it with labelled pictures for {split}",
        )
    table = read_table(manifest, split, columns=[*records.LABELS, "image"]).sort_by("id")
    return _labelled(records.labels_of(table), table["image"].to_pylist())


def _labelled(truth: records.Arrays, images: list[str]) -> Labelled:
    first: dict[str, int] = {}
    for name, image in zip(images, truth["image_id"].tolist(), strict=True):
        first[name] = min(image, first.get(name, image))
    # MPII has an id for each person: the file name says which ones share a picture.
    pictures = sorted(first, key=lambda name: (first[name], name))
    place = {name: at for at, name in enumerate(pictures)}
    picture = np.array([place[name] for name in images], np.int64)
    return Labelled({**truth, "picture": picture}, images, pictures)
