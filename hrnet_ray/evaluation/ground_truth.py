"""The labels of a split, and which rows share an image."""

from dataclasses import dataclass

import numpy as np

from hrnet_ray.data import records
from hrnet_ray.data.manifest import DatasetManifest, read_split
from hrnet_ray.errors import DataError


@dataclass(frozen=True)
class GroundTruth:
    """The truth of a split, in the order of its row ids, and its images."""

    columns: records.Arrays
    """The label columns, and `picture`: int64 [N], the place of its image in `pictures`."""
    row_image_names: list[str]
    """The file name of each row's image."""
    image_names: list[str]
    """File names, in the order of their image ids."""

    def __len__(self) -> int:
        return len(self.row_image_names)

    def build_image_index(self) -> dict[int | str, int]:
        """The place of an image by any of its image ids, and by its file name."""
        by_id = zip(self.columns["image_id"].tolist(), self.columns["image_index"].tolist(), strict=True)
        return {**dict(by_id), **{name: at for at, name in enumerate(self.image_names)}}

    def select_rows(self, keep: np.ndarray) -> "GroundTruth":
        """Some of the rows (bool [N]), and the images that they are in."""
        truth = {name: column[keep] for name, column in self.columns.items()}
        return _build_ground_truth(truth, [self.row_image_names[at] for at in np.flatnonzero(keep)])


def load_ground_truth(manifest: DatasetManifest, split: str) -> GroundTruth:
    """The labels of a split; its images are not read.

    Raises:
        DataError: there is no such split, it is damaged, or it has no rows.
    """
    if not manifest.get_shards(split):
        raise DataError(
            "nothing to score",
            f"{split} of {manifest.root} has no rows",
            f"prepare it with labelled images for {split}",
        )
    table = read_split(manifest, split, columns=[*records.LABEL_COLUMNS, "image"]).sort_by("id")
    return _build_ground_truth(records.get_label_columns(table), table["image"].to_pylist())


def _build_ground_truth(columns: records.Arrays, row_image_names: list[str]) -> GroundTruth:
    first: dict[str, int] = {}
    for name, image in zip(row_image_names, columns["image_id"].tolist(), strict=True):
        first[name] = min(image, first.get(name, image))
    # MPII has an id for each person: the file name shows which ones share an image.
    pictures = sorted(first, key=lambda name: (first[name], name))
    place = {name: at for at, name in enumerate(pictures)}
    picture = np.array([place[name] for name in row_image_names], np.int64)
    return GroundTruth({**columns, "image_index": picture}, row_image_names, pictures)
