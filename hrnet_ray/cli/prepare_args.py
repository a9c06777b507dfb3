"""The flags of `hrnet-ray prepare`, by what it reads."""

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
    """What all sources have in common."""

    out: DirOrUri
    """Folder to write: train/, val/, manifest.json, skipped.csv. s3://bucket/folder works too."""
    name: str | None = None
    """Name of the data set; by default the folder's."""
    max_image_size: int = records.CANVAS_PX
    """Longest side of a stored training picture, in pixels."""
    store_full_images: bool = False
    """Store untouched files for training too; they are reduced when they are read."""
    rows_per_shard: int = ROWS_PER_SHARD
    """Rows of one Parquet file, which is what a stopped command may have to make again."""
    skip_missing: bool = False
    """Leave out pictures that are not there (they are listed in skipped.csv)."""
    skip_corrupt: bool = False
    """Leave out pictures that cannot be read (they are listed in skipped.csv)."""
    ray_address: str | None = None
    """A running Ray cluster that makes the shards. Large sets start Ray on this machine anyway."""


@dataclass(frozen=True, kw_only=True)
class ImageAnnotationArgs(OutputArgs):
    """Pictures with one or two annotation files."""

    images: DirArchiveOrUri
    """Folder that the annotations' file names start from, or an archive (zip, tar, tar.gz)."""
    annotations: Path
    val_annotations: Path | None = None
    """Without it, `val_share` of the pictures are kept for validation."""
    val_images: Annotated[PathOrUri | None, tyro.conf.arg(metavar="DIR|ARCHIVE|URI")] = None
    """By default the same as `images`."""
    val_fraction: float = 0.1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class CocoArgs(ImageAnnotationArgs):
    """COCO keypoints: COCO, ATRW, AP-10K, exports of CVAT and Label Studio."""

    skeleton: str | None = None
    """mpii, atrw, coco, or a YAML file; by default the annotations' own category."""


@dataclass(frozen=True, kw_only=True)
class YoloArgs(OutputArgs):
    """YOLO-pose: a data.yaml with `kpt_shape`, and text files of labels beside the pictures."""

    yaml: Path
    """The data.yaml of the data set."""
    skeleton: str | None = None
    """mpii, atrw, coco, or a YAML file; by default what the data.yaml tells of the keypoints."""
    val_fraction: float = 0.1
    """Of the pictures, kept for validation where the data.yaml has no `val`."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DeepLabCutArgs(OutputArgs):
    """DeepLabCut: a project's config.yaml, and the frames and labels in its labeled-data."""

    project: Annotated[Path, tyro.conf.arg(metavar="DIR|FILE")]
    """The project's folder, or its config.yaml."""
    skeleton: str | None = None
    """mpii, atrw, coco, or a YAML file; by default the config's bodyparts and bones."""
    val_fraction: float = 0.1
    """Of the frames, kept for validation as whole videos; of one video alone, as frames."""
    val_videos: Annotated[tuple[str, ...], tyro.conf.arg(metavar="VIDEO ...")] = ()
    """Folders of labeled-data to keep for validation, whatever their share."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class AtrwArgs(OutputArgs):
    """ATRW's Amur tigers, from the archives as they are downloaded."""

    archives_dir: Path
    """Folder with atrw_pose_train.tar.gz, atrw_pose_val.tar.gz and atrw_anno_pose_train.tar.gz."""


@dataclass(frozen=True, kw_only=True)
class MpiiArgs(ImageAnnotationArgs):
    """MPII: its original release (mpii_human_pose_v1_u12_1.mat), or the HRNet authors' files.

    Those are train.json, valid.json and gt_valid.mat. With the release as `annotations`, their
    valid.json as `val_annotations` asks for their parting; else whole videos are kept.
    """

    gt_valid: Path | None = None
    """Truth and head sizes of the published evaluation, for `val_annotations`."""


@dataclass(frozen=True, kw_only=True)
class SyntheticArgs(OutputArgs):
    """Drawn tigers or people: to try things out without any data."""

    kind: Literal["tigers", "people"] = "tigers"
    num_train: int = 400
    """Training pictures; a picture of tigers has one to three."""
    num_val: int = 80
    seed: int = 0
