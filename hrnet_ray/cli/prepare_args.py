"""Flags of `hrnet-ray prepare`, one dataclass per annotation format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hrnet_ray.data import records
from hrnet_ray.data.shards import ROWS_PER_SHARD
from hrnet_ray.data.storage import PathOrUri

DirOrUri = Annotated[PathOrUri, tyro.conf.arg(metavar="DIR|URI")]
DirArchiveOrUri = Annotated[PathOrUri, tyro.conf.arg(metavar="DIR|ARCHIVE|URI")]


@dataclass(frozen=True, kw_only=True)
class OutputArgs:
    """Flags of all formats."""

    out: DirOrUri
    """Folder or URI to write: train/, val/, manifest.json and skipped.csv."""
    name: str | None = None
    """Name of the dataset; by default that of the folder."""
    max_image_size: int = records.CANVAS_PX
    """Longest side of a stored training image, in pixels."""
    store_full_images: bool = False
    """Store the original files of the training split, too; they are resized when they are read."""
    rows_per_shard: int = ROWS_PER_SHARD
    """Rows per Parquet shard; an interrupted command resumes after the last complete shard."""
    skip_missing: bool = False
    """Skip missing images and list them in skipped.csv."""
    skip_corrupt: bool = False
    """Skip images that cannot be read and list them in skipped.csv."""
    ray_address: str | None = None
    """Ray cluster that writes the shards; by default a large dataset starts Ray on this machine."""


@dataclass(frozen=True, kw_only=True)
class ImageAnnotationArgs(OutputArgs):
    """Flags of formats with one or two annotation files."""

    images: DirArchiveOrUri
    """Folder that the annotations' file names are relative to, or an archive (zip, tar, tar.gz)."""
    annotations: Path
    """Annotation file; with --val-annotations, that of the training split."""
    val_annotations: Path | None = None
    """Annotation file of the validation split; by default --val-fraction of the images."""
    val_images: Annotated[PathOrUri | None, tyro.conf.arg(metavar="DIR|ARCHIVE|URI")] = None
    """Folder or archive of the validation images; by default that of --images."""
    val_fraction: float = 0.1
    """Fraction of the images for validation, without --val-annotations."""
    seed: int = 0
    """Seed of the random split."""


@dataclass(frozen=True, kw_only=True)
class CocoArgs(ImageAnnotationArgs):
    """COCO keypoints: COCO, ATRW, AP-10K, exports of CVAT and Label Studio."""

    skeleton: str | None = None
    """Skeleton: mpii, atrw, coco, or a YAML file; by default the annotations' category."""


@dataclass(frozen=True, kw_only=True)
class YoloArgs(OutputArgs):
    """YOLO-pose: a data.yaml with `kpt_shape`, and label files beside the images."""

    yaml: Path
    """The data.yaml file of the dataset."""
    skeleton: str | None = None
    """Skeleton: mpii, atrw, coco, or a YAML file; by default the keypoints of the data.yaml."""
    val_fraction: float = 0.1
    """Fraction of the images for validation, if the data.yaml has no `val`."""
    seed: int = 0
    """Seed of the random split."""


@dataclass(frozen=True, kw_only=True)
class DeepLabCutArgs(OutputArgs):
    """DeepLabCut: a project's config.yaml, with frames and labels in labeled-data."""

    project: Annotated[Path, tyro.conf.arg(metavar="DIR|FILE")]
    """Project folder, or its config.yaml."""
    skeleton: str | None = None
    """Skeleton: mpii, atrw, coco, or a YAML file; by default the config's bodyparts and bones."""
    val_fraction: float = 0.1
    """Fraction of the frames for validation, as whole videos; a single video is split by frames."""
    val_videos: Annotated[tuple[str, ...], tyro.conf.arg(metavar="VIDEO ...")] = ()
    """Folders of labeled-data for validation; they override --val-fraction."""
    seed: int = 0
    """Seed of the random split."""


@dataclass(frozen=True, kw_only=True)
class AtrwArgs(OutputArgs):
    """ATRW's Amur tigers, from the downloaded archives."""

    archives_dir: Path
    """Folder with atrw_pose_train.tar.gz, atrw_pose_val.tar.gz and atrw_anno_pose_train.tar.gz."""


@dataclass(frozen=True, kw_only=True)
class MpiiArgs(ImageAnnotationArgs):
    """MPII: the original release (mpii_human_pose_v1_u12_1.mat), or the HRNet authors' files.

    The HRNet authors' files are train.json, valid.json and gt_valid.mat. With the release as
    --annotations, their valid.json as --val-annotations selects their validation split. Without
    it, whole videos are selected at random.
    """

    gt_valid: Path | None = None
    """Ground truth and head sizes of the published evaluation, for --val-annotations."""


@dataclass(frozen=True, kw_only=True)
class SyntheticArgs(OutputArgs):
    """Synthetic tigers or people, to test the commands without data."""

    kind: Literal["tigers", "people"] = "tigers"
    """Objects in the images."""
    num_train: int = 400
    """Number of training images; an image of tigers has one to three."""
    num_val: int = 80
    """Number of validation images."""
    seed: int = 0
    """Seed of the random images."""
