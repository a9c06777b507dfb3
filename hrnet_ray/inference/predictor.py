"""From pictures and boxes to keypoints, through the same code that scores a training."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from hrnet_ray.data import records
from hrnet_ray.data.batch import CropBatch, to_crops
from hrnet_ray.inference.model_package import ModelSpec, load_model
from hrnet_ray.inference.predict_loop import Decoding, predict
from hrnet_ray.metrics.predictions import Predictions
from hrnet_ray.models import HRNet
from hrnet_ray.models.bn_folding import folded

STRIDE = 4  # crop pixels per heatmap cell


class Predictor:
    """A trained model, ready for pictures.

    predictor = Predictor.from_folder("runs/atrw/w32/model")
    found = predictor(picture, boxes_xywh)     # RGB uint8 [H, W, 3], [N, 4]
    found.image_xy, found.scores               # [N, K, 2], [N, K]
    """

    def __init__(self, model: HRNet, spec: ModelSpec, *, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self._quick = folded(self.model)
        self.spec = spec

    @classmethod
    def from_folder(cls, folder: str | Path, *, device: str = "cpu") -> "Predictor":
        """Load a `model/` folder.

        Raises:
            DataError: the folder holds no whole model.
        """
        model, spec = load_model(Path(folder))
        return cls(model, spec, device=device)

    def __call__(
        self, picture: np.ndarray, boxes_xywh: np.ndarray, *, batch_size: int = 64
    ) -> Predictions:
        """Predict the pose in each box; ids count the boxes from 0.

        Raises:
            ValueError: the picture is not RGB uint8 [H, W, 3], or a box has no size.
        """
        return self.on_pictures([picture], [boxes_xywh], batch_size=batch_size)[0]

    def on_pictures(
        self, pictures: Sequence[np.ndarray], boxes: Sequence[np.ndarray], *, batch_size: int = 64
    ) -> list[Predictions]:
        """Predict the pose in each box of each picture; a batch may have crops of several.

        Raises:
            ValueError: as above.
        """
        each = [np.asarray(one, np.float64).reshape(-1, 4) for one in boxes]
        for picture, one in zip(pictures, each, strict=True):
            _check(picture, one)
        if not each:
            return []
        found = self.predict(self._cut(pictures, each, batch_size))
        ends = np.cumsum([len(one) for one in each]).tolist()
        spans = zip([0, *ends], ends, strict=False)
        return [_part(found, start, end) for start, end in spans]

    def predict(self, batches: Iterable[CropBatch]) -> Predictions:
        """Predict batches of ready crops."""
        found = predict(self._quick, batches, decoding=decoding_of(self.spec))
        return found if len(found.ids) else Predictions.none(len(self.spec.skeleton))

    def predict_table(self, table: pa.Table, *, batch_size: int = 64) -> Predictions:
        """Predict evaluation rows (`data.rows.exact_row`) in memory, without Ray."""
        return self.predict(self._batches(table, batch_size))

    def _cut(
        self, pictures: Sequence[np.ndarray], boxes: Sequence[np.ndarray], size: int
    ) -> Iterator[CropBatch]:
        input_hw = self.spec.input_hw
        matrices = records.crop_matrices(
            np.concatenate(boxes), input_hw=input_hw, padding=self.spec.padding
        )
        owners = np.repeat(np.arange(len(boxes)), [len(one) for one in boxes])
        for start in range(0, len(matrices), size):
            part = slice(start, start + size)
            crops = [
                records.cut_crop(pictures[owner], matrix, input_hw=input_hw)
                for owner, matrix in zip(owners[part], matrices[part], strict=True)
            ]
            arrays = {
                "id": np.arange(start, start + len(crops)),
                "crop": np.stack(crops),
                "crop_from_image": matrices[part],
            }
            yield to_crops(arrays, self.device)

    def _batches(self, table: pa.Table, size: int) -> Iterator[CropBatch]:
        for start in range(0, table.num_rows, size):
            part = table.slice(start, size)
            arrays = records.decode_exact(
                part, input_hw=self.spec.input_hw, padding=self.spec.padding
            )
            yield to_crops(arrays, self.device)


def _check(picture: np.ndarray, boxes: np.ndarray) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        form = f"{picture.dtype} {list(picture.shape)}"
        raise ValueError(f"a picture is RGB uint8 [H, W, 3], this is {form}")
    if not (np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all()):
        raise ValueError("a box is (x, y, w, h) in pixels, with w and h above 0")


def _part(found: Predictions, start: int, end: int) -> Predictions:
    """Those of one picture, counted from 0."""
    return Predictions(
        found.ids[start:end] - start, found.image_xy[start:end], found.scores[start:end]
    )


def whole_picture(picture: np.ndarray) -> np.ndarray:
    """Its box, float64 [1, 4], by the published count: that of W x H pixels is (W-1) x (H-1)."""
    height, width = picture.shape[:2]
    return np.array([[0.0, 0.0, max(1, width - 1), max(1, height - 1)]])


def decoding_of(spec: ModelSpec) -> Decoding:
    """How the model's heatmaps are read."""
    return Decoding(
        method=spec.decode,
        flip_order=spec.skeleton.flip_order if spec.flip_test else None,
        shift=spec.shift_heatmap,
        stride=STRIDE,
        sigma=spec.sigma,
    )
