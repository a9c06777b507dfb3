"""The flags of `hrnet-ray prepare`, by what it reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hrnet_ray.data import records
from hrnet_ray.data.shards import SHARD_ROWS
from hrnet_ray.data.storage import Place

Folder = Annotated[Place, tyro.conf.arg(metavar="DIR|URI")]
Pictures = Annotated[Place, tyro.conf.arg(metavar="DIR|ARCHIVE|URI")]


@dataclass(frozen=True, kw_only=True)
class Output:
    """What all sources have in common."""

    out: Folder
    """Folder to write: train/, val/, manifest.json, skipped.csv. s3://bucket/folder works too."""
    name: str | None = None
    """Name of the data set; by default the folder's."""
    canvas: int = records.CANVAS_PX
    """Longest side of a stored training picture, in pixels."""
    exact: bool = False
    """Store untouched files for training too; they are reduced when they are read."""
    shard_rows: int = SHARD_ROWS
    """Rows of one Parquet file, which is what a stopped command may have to make again."""
    skip_missing: bool = False
    """Leave out pictures that are not there (they are listed in skipped.csv)."""
    skip_broken: bool = False
    """Leave out pictures that cannot be read (they are listed in skipped.csv)."""
    address: str | None = None
    """A running Ray cluster that makes the shards. Large sets start Ray on this machine anyway."""


@dataclass(frozen=True, kw_only=True)
class Files(Output):
    """Pictures with one or two annotation files."""

    images: Pictures
    """Folder that the annotations' file names start from, or an archive (zip, tar, tar.gz)."""
    annotations: Path
    val_annotations: Path | None = None
    """Without it, `val_share` of the pictures are kept for validation."""
    val_images: Annotated[Place | None, tyro.conf.arg(metavar="DIR|ARCHIVE|URI")] = None
    """By default the same as `images`."""
    val_share: float = 0.1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Coco(Files):
    """COCO keypoints: COCO, ATRW, AP-10K, exports of CVAT and Label Studio."""

    skeleton: str | None = None
    """mpii, atrw, coco, or a YAML file; by default the annotations' own category."""


@dataclass(frozen=True, kw_only=True)
class Yolo(Output):
    """YOLO-pose: a data.yaml with `kpt_shape`, and text files of labels beside the pictures."""

    yaml: Path
    """The data.yaml of the data set."""
    skeleton: str | None = None
    """mpii, atrw, coco, or a YAML file; by default what the data.yaml tells of the keypoints."""
    val_share: float = 0.1
    """Of the pictures, kept for validation where the data.yaml has no `val`."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Dlc(Output):
    """DeepLabCut: a project's config.yaml, and the frames and labels in its labeled-data."""

    project: Annotated[Path, tyro.conf.arg(metavar="DIR|FILE")]
    """The project's folder, or its config.yaml."""
    skeleton: str | None = None
    """mpii, atrw, coco, or a YAML file; by default the config's bodyparts and bones."""
    val_share: float = 0.1
    """Of the frames, kept for validation as whole videos; of one video alone, as frames."""
    val_videos: Annotated[tuple[str, ...], tyro.conf.arg(metavar="VIDEO ...")] = ()
    """Folders of labeled-data to keep for validation, whatever their share."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Atrw(Output):
    """ATRW's Amur tigers, from the archives as they are downloaded."""

    downloads: Path
    """Folder with atrw_pose_train.tar.gz, atrw_pose_val.tar.gz and atrw_anno_pose_train.tar.gz."""


@dataclass(frozen=True, kw_only=True)
class Mpii(Files):
    """MPII: its original release (mpii_human_pose_v1_u12_1.mat), or the HRNet authors' files.

    Those are train.json, valid.json and gt_valid.mat. With the release as `annotations`, their
    valid.json as `val_annotations` asks for their parting; else whole videos are kept.
    """

    gt_valid: Path | None = None
    """Truth and head sizes of the published evaluation, for `val_annotations`."""


@dataclass(frozen=True, kw_only=True)
class Synthetic(Output):
    """Drawn tigers or people: to try things out without any data."""

    kind: Literal["tigers", "people"] = "tigers"
    train: int = 400
    """Training pictures; a picture of tigers has one to three."""
    val: int = 80
    seed: int = 0
