"""Labels of a split, with the image of each row."""

from dataclasses import dataclass

import numpy as np

from hrnet_ray.data import records
from hrnet_ray.data.manifest import DatasetManifest, read_split
from hrnet_ray.errors import DataError


@dataclass(frozen=True)
class GroundTruth:
    """Labels of a split in the order of row ids, and its images."""

    columns: records.Arrays
    """Label columns, and `image_index`: int64 [N], an index into `image_names`."""
    row_image_names: list[str]
    """File name of the image of each row."""
    image_names: list[str]
    """File names, in the order of their image ids."""

    def __len__(self) -> int:
        return len(self.row_image_names)

    def build_image_index(self) -> dict[int | str, int]:
        """Map image ids and file names to image indices."""
        index_by_id = zip(self.columns["image_id"].tolist(), self.columns["image_index"].tolist(), strict=True)
        return {**dict(index_by_id), **{name: index for index, name in enumerate(self.image_names)}}

    def select_rows(self, keep: np.ndarray) -> "GroundTruth":
        """Select rows by a mask, bool [N], with only the images of these rows."""
        columns = {name: column[keep] for name, column in self.columns.items()}
        return _build_ground_truth(columns, [self.row_image_names[row] for row in np.flatnonzero(keep)])


def load_ground_truth(manifest: DatasetManifest, split: str) -> GroundTruth:
    """Load the labels of a split, without its images.

    Raises:
        DataError: the split does not exist, is damaged, or has no rows.
    """
    if not manifest.get_shards(split):
        raise DataError(
            "there are no rows to evaluate",
            f"{split} of {manifest.root} has no rows",
            f"prepare the dataset with labelled images for {split}",
        )
    table = read_split(manifest, split, columns=[*records.LABEL_COLUMNS, "image"]).sort_by("id")
    return _build_ground_truth(records.get_label_columns(table), table["image"].to_pylist())


def _build_ground_truth(columns: records.Arrays, row_image_names: list[str]) -> GroundTruth:
    first_image_id: dict[str, int] = {}
    for name, image_id in zip(row_image_names, columns["image_id"].tolist(), strict=True):
        first_image_id[name] = min(image_id, first_image_id.get(name, image_id))
    # MPII has one image id per person, so rows of one image are recognized by the file name.
    image_names = sorted(first_image_id, key=lambda name: (first_image_id[name], name))
    index_of = {name: index for index, name in enumerate(image_names)}
    image_index = np.array([index_of[name] for name in row_image_names], np.int64)
    return GroundTruth({**columns, "image_index": image_index}, row_image_names, image_names)
