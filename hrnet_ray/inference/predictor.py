"""From pictures and boxes to keypoints, through the same code that scores a training."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from hrnet_ray.data import rows
from hrnet_ray.inference.model_folder import ModelSpec, load_model
from hrnet_ray.learning.batch import CropBatch, to_crops
from hrnet_ray.learning.loop import Decoding, Predictions, predict
from hrnet_ray.models import HRNet

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
        self.spec = spec

    @classmethod
    def from_folder(cls, folder: str | Path, *, device: str = "cpu") -> "Predictor":
        """Load a `model/` folder.

        Raises:
            DataError: the folder holds no whole model.
        """
        model, spec = load_model(Path(folder))
        return cls(model, spec, device=device)

    def __call__(self, picture: np.ndarray, boxes_xywh: np.ndarray) -> Predictions:
        """Predict the pose in each box; ids count the boxes from 0."""
        boxes = np.asarray(boxes_xywh, np.float64).reshape(-1, 4)
        input_hw = self.spec.input_hw
        matrices = rows.crop_matrices(boxes, input_hw=input_hw, padding=self.spec.padding)
        crops = [rows.cut_crop(picture, matrix, input_hw=input_hw) for matrix in matrices]
        arrays = {
            "id": np.arange(len(boxes)),
            "crop": np.stack(crops),
            "crop_from_image": matrices,
        }
        return self.predict([to_crops(arrays, self.device)])

    def predict(self, batches: Iterable[CropBatch]) -> Predictions:
        """Predict batches of ready crops."""
        return predict(self.model, batches, decoding=decoding_of(self.spec))

    def predict_table(self, table: pa.Table, *, batch_size: int = 64) -> Predictions:
        """Predict evaluation rows (`data.rows.exact_row`) in memory, without Ray."""
        return self.predict(self._batches(table, batch_size))

    def _batches(self, table: pa.Table, size: int) -> Iterator[CropBatch]:
        for start in range(0, table.num_rows, size):
            part = table.slice(start, size)
            arrays = rows.decode_exact(part, input_hw=self.spec.input_hw, padding=self.spec.padding)
            yield to_crops(arrays, self.device)


def decoding_of(spec: ModelSpec) -> Decoding:
    """How the model's heatmaps are read."""
    return Decoding(
        method=spec.decode,
        flip_order=spec.skeleton.flip_order if spec.flip_test else None,
        shift=spec.shift_heatmap,
        stride=STRIDE,
        sigma=spec.sigma,
    )
