"""How near training crops come to an ideal warp of the original image.

    python benchmarks/fidelity.py --folder FOLDER [--warps 32] [--table]

FOLDER holds `mpii/test_mpii.json` and `atrw/test_atrw.json` with their images beside them (the
sample files of public pose test suites). Each image is cut out by the random warps of its
recipe; the ideal is the original sampled four times finer each way and averaged. Printed is the
median PSNR of the crops, over the pixels that the image covers: for the published way (one
bilinear warp of the original), for training rows as they are stored, and with `--table` for other
canvases. `lost` is the share of those pixels that the stored region does not reach; `us` the CPU
time of one canvas. Ends with one JSON line.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from hrnet_ray.config import AugmentationConfig
from hrnet_ray.data import records
from hrnet_ray.data.annotations import PoseInstance
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.formats.mpii import read_mpii
from hrnet_ray.data.images import codec
from hrnet_ray.data.images.codec import cv2
from hrnet_ray.pose.augmentation import sample_affine_params, warp_images
from hrnet_ray.pose.geometry import box_to_center_scale, invert_affine

FINER = 4
SEED = 0
READERS = {"mpii": read_mpii, "atrw": read_coco}
INPUT_HW = {"mpii": (256, 256), "atrw": (192, 256)}
AUGMENTATIONS = {
    "mpii": AugmentationConfig(scale_factor=0.25, rotation_deg=30.0),
    "atrw": AugmentationConfig(scale_factor=0.35, rotation_deg=45.0),
}
SAMPLINGS = {
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}
TRIED = product((384, 416, 448), (1.1, 1.3, 1.5), (90, 95), SAMPLINGS)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One instance of a real image, the warps that cut it out, and what they should give."""

    recipe: str
    instance: PoseInstance
    data: bytes
    picture: np.ndarray
    crop_from_image: torch.Tensor  # float64 [N, 3, 3]
    ideal: np.ndarray  # float32 [N, H, W, 3]
    covered: np.ndarray  # bool [N, H, W]: the image covers the whole pixel

    @property
    def input_hw(self) -> tuple[int, int]:
        return INPUT_HW[self.recipe]


@dataclass(frozen=True)
class Storing:
    """A way to store a training row."""

    canvas_px: int
    covers: float
    quality: int
    sampling: str

    def row(self, scene: Scene) -> dict:
        """`rows.region_row`, had it these settings."""
        stored, matrix = records.crop_region(
            scene.picture, scene.instance.box_xywh, canvas_px=self.canvas_px, coverage=self.covers
        )
        flags = [cv2.IMWRITE_JPEG_QUALITY, self.quality]
        flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[self.sampling]]
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(stored, cv2.COLOR_RGB2BGR), flags)[1].tobytes()
        row = as_stored(scene, canvas_px=self.canvas_px)
        return row | {"picture": jpeg, "stored_from_image": matrix.ravel().tolist()}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one way to a crop is worth."""

    psnr_db: dict[str, list[float]]  # by recipe, crop by crop
    lost: float = 0.0
    decode_us: float = 0.0
    stored_kb: float = 0.0

    def median_db(self, *recipes: str) -> float:
        """Of some recipes, or of all together."""
        chosen = recipes or tuple(self.psnr_db)
        return float(np.median([one for name in chosen for one in self.psnr_db[name]]))

    def line(self, name: str) -> str:
        parts = [f"{name:24s} all {self.median_db():5.2f} dB"]
        parts += [
            f"{recipe} {np.median(found):5.2f} (a tenth below {np.percentile(found, 10):5.2f})"
            for recipe, found in self.psnr_db.items()
        ]
        if self.decode_us:
            parts.append(f"lost {self.lost:5.2%}  {self.stored_kb:3.0f} kB  {self.decode_us:4.0f} us")
        return "  ".join(parts)


def scenes(folder: Path, *, warps: int) -> list[Scene]:
    """Every instance of both samples with `warps` random warps."""
    found = []
    for recipe, reader in READERS.items():
        for instance in reader(folder / recipe / f"test_{recipe}.json").instances:
            data = (folder / recipe / instance.image).read_bytes()
            picture = codec.decode_image(data)
            assert picture is not None, instance.image
            matrices = random_warps(instance, recipe, count=warps)
            ideal, covered = zip(
                *(ideal_crop(picture, one, input_hw=INPUT_HW[recipe]) for one in matrices.numpy()),
                strict=True,
            )
            found.append(
                Scene(
                    recipe=recipe,
                    instance=instance,
                    data=data,
                    picture=picture,
                    crop_from_image=matrices,
                    ideal=np.stack(ideal),
                    covered=np.stack(covered),
                )
            )
    return found


def random_warps(instance: PoseInstance, recipe: str, *, count: int) -> torch.Tensor:
    """As training draws them, for `count` epochs: float64 [N, 3, 3], from image to crop pixels."""
    box = torch.tensor([instance.box_xywh], dtype=torch.float64)
    center_xy, scale_wh = box_to_center_scale(box, input_hw=INPUT_HW[recipe])
    drawn = [
        sample_affine_params(
            torch.tensor([instance.id]),
            seed=SEED,
            epoch=epoch,
            image_xy=torch.from_numpy(instance.image_xy)[None],
            visible=torch.from_numpy(instance.visible)[None],
            center_xy=center_xy,
            scale_wh=scale_wh,
            upper_body_keypoints=(0,),  # no half bodies here
            augmentation=AUGMENTATIONS[recipe],
            input_hw=INPUT_HW[recipe],
        ).crop_from_image(crop_hw=INPUT_HW[recipe])
        for epoch in range(count)
    ]
    return torch.cat(drawn)


def ideal_crop(
    picture: np.ndarray, crop_from_image: np.ndarray, *, input_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of 4 x 4 samples inside each crop pixel, and where all lie in the image."""
    height, width = input_hw
    middle = (FINER - 1) / 2  # the crop's whole numbers are the middles of its pixels
    finer_from_crop = np.array([[FINER, 0, middle], [0, FINER, middle], [0, 0, 1]])
    matrix = (finer_from_crop @ crop_from_image)[:2]
    finer_wh = (width * FINER, height * FINER)
    samples = cv2.warpAffine(picture.astype(np.float32), matrix, finer_wh, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.ones(picture.shape[:2], np.float32), matrix, finer_wh)
    crop, share = (cv2.resize(finer, (width, height), interpolation=cv2.INTER_AREA) for finer in (samples, inside))
    return crop, share > 0.999


def psnr_db(crops: np.ndarray, scene: Scene) -> list[float]:
    """Of each crop (0..255, [N, H, W, 3]) against the ideal, where the image covers it."""
    errors = [
        np.square(crop[covered] - ideal[covered]).mean()
        for crop, ideal, covered in zip(crops, scene.ideal, scene.covered, strict=True)
    ]
    return [float(10 * np.log10(255**2 / error)) for error in errors]


def published(found: Sequence[Scene]) -> Figures:
    """One bilinear warp of the original."""
    by_recipe: dict[str, list[float]] = {}
    for scene in found:
        crops = [
            records.warp_crop(scene.picture, one, input_hw=scene.input_hw).astype(np.float32)
            for one in scene.crop_from_image.numpy()
        ]
        by_recipe.setdefault(scene.recipe, []).extend(psnr_db(np.stack(crops), scene))
    return Figures(psnr_db=by_recipe)


def as_stored(scene: Scene, *, canvas_px: int) -> dict:
    """The row that `prepare` writes."""
    return records.build_cropped_record(scene.instance, scene.data, scene.picture, canvas_px=canvas_px)


def trained_on(found: Sequence[Scene], made: Sequence[dict], *, canvas_px: int) -> Figures:
    """Decode one row per scene, and warp it as training does."""
    by_recipe: dict[str, list[float]] = {}
    lost, decode_s = [], []
    for scene, row in zip(found, made, strict=True):
        table = pa.Table.from_pylist([row], schema=records.build_arrow_schema(len(scene.instance.visible)))
        began = time.thread_time()
        decoded = records.decode_train_batch(table, canvas_px=canvas_px)
        decode_s.append(time.thread_time() - began)
        canvas_from_image = torch.from_numpy(decoded["canvas_from_image"])
        crop_from_canvas = scene.crop_from_image @ invert_affine(canvas_from_image)
        crops = _warped(decoded["canvas"][0], crop_from_canvas, scene.input_hw)
        by_recipe.setdefault(scene.recipe, []).extend(psnr_db(crops, scene))
        stored = codec.decode_image(row["picture"])
        assert stored is not None
        reached = np.zeros_like(decoded["canvas"][0])
        reached[: stored.shape[0], : stored.shape[1]] = 255
        seen = _warped(reached, crop_from_canvas, scene.input_hw)[..., 0] > 254
        lost.append(1 - seen[scene.covered].mean())
    return Figures(
        psnr_db=by_recipe,
        lost=float(np.mean(lost)),
        decode_us=1e6 * float(np.median(decode_s)),
        stored_kb=float(np.mean([len(row["picture"]) for row in made])) / 1e3,
    )


def _warped(canvas: np.ndarray, crop_from_canvas: torch.Tensor, input_hw: tuple[int, int]) -> np.ndarray:
    canvases = torch.from_numpy(canvas).expand(len(crop_from_canvas), -1, -1, -1)
    crops = warp_images(canvases, crop_from_canvas, crop_hw=input_hw)
    return crops.permute(0, 2, 3, 1).numpy() * 255


def defaults(found: Sequence[Scene]) -> Figures:
    """Training rows as they are stored when nobody says otherwise."""
    made = [as_stored(scene, canvas_px=records.CANVAS_PX) for scene in found]
    return trained_on(found, made, canvas_px=records.CANVAS_PX)


def others(found: Sequence[Scene]) -> Iterator[tuple[str, Figures]]:
    """Canvases of other sizes, coverages, qualities and chroma samplings."""
    for storing in (Storing(*one) for one in TRIED):
        made = [storing.row(scene) for scene in found]
        name = f"{storing.canvas_px} px {storing.covers} q{storing.quality} {storing.sampling}"
        yield name, trained_on(found, made, canvas_px=storing.canvas_px)


def check_exact(found: Sequence[Scene]) -> int:
    """Evaluation rows must give, to the pixel, one `cv2.warpAffine` of the original.

    Returns:
        How many crops were compared.

    Raises:
        AssertionError: a pixel differs.
    """
    for scene in found:
        table = pa.Table.from_pylist(
            [records.build_full_image_record(scene.instance, scene.data)],
            schema=records.build_arrow_schema(len(scene.instance.visible)),
        )
        decoded = records.decode_eval_batch(table, input_hw=scene.input_hw, padding=records.BOX_PADDING_FACTOR)
        height, width = scene.input_hw
        wanted = cv2.warpAffine(
            scene.picture,
            decoded["crop_from_image"][0, :2],
            (width, height),
            flags=cv2.INTER_LINEAR,
        )
        assert (decoded["crop"][0] == wanted).all(), scene.instance.image
    return len(found)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description="How near training crops come to an ideal warp.")
    parser.add_argument("--folder", type=Path, required=True, help="with mpii/ and atrw/ in it")
    parser.add_argument("--warps", type=int, default=32, help="random warps per instance")
    parser.add_argument("--table", action="store_true", help="other canvases, too (minutes)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    found = scenes(args.folder, warps=args.warps)
    exact = check_exact(found)
    print(f"{exact} exact rows: every pixel is that of one cv2.warpAffine")
    direct, stored = published(found), defaults(found)
    print(direct.line("published direct warp"))
    print(stored.line("training rows"))
    if args.table:
        for name, figures in others(found):
            print(figures.line(name), flush=True)
    figures = {"published_db": direct.median_db(), "stored_db": stored.median_db()}
    figures |= {f"stored_{name}_db": stored.median_db(name) for name in READERS}
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
