"""From images and boxes to keypoints, through the same code that scores a training."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from hrnet_ray.data import records
from hrnet_ray.data.batch import EvalBatch, to_eval_batch
from hrnet_ray.inference.model_package import ModelSpec, load_model
from hrnet_ray.inference.predict_loop import DecodeConfig, predict_batches
from hrnet_ray.metrics.predictions import KeypointPredictions
from hrnet_ray.models import HRNet
from hrnet_ray.models.bn_folding import fold_batchnorm


class Predictor:
    """A trained model, ready for images.

    predictor = Predictor.from_folder("runs/atrw/w32/model")
    found = predictor(image, boxes_xywh)     # RGB uint8 [H, W, 3], [N, 4]
    found.image_xy, found.scores               # [N, K, 2], [N, K]
    """

    def __init__(self, model: HRNet, spec: ModelSpec, *, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self._folded_model = fold_batchnorm(self.model)
        self.spec = spec

    @classmethod
    def from_model_dir(cls, folder: str | Path, *, device: str = "cpu") -> "Predictor":
        """Load a `model/` folder.

        Raises:
            DataError: the folder holds no whole model.
        """
        model, spec = load_model(Path(folder))
        return cls(model, spec, device=device)

    def __call__(self, image: np.ndarray, boxes_xywh: np.ndarray, *, batch_size: int = 64) -> KeypointPredictions:
        """Predict the pose in each box; ids count the boxes from 0.

        Raises:
            ValueError: the image is not RGB uint8 [H, W, 3], or a box has no size.
        """
        return self.predict_images([image], [boxes_xywh], batch_size=batch_size)[0]

    def predict_images(
        self,
        images: Sequence[np.ndarray],
        boxes_xywh: Sequence[np.ndarray],
        *,
        batch_size: int = 64,
    ) -> list[KeypointPredictions]:
        """Predict the pose in each box of each image; a batch may have crops of several.

        Raises:
            ValueError: as above.
        """
        each = [np.asarray(one, np.float64).reshape(-1, 4) for one in boxes_xywh]
        for picture, one in zip(images, each, strict=True):
            _validate_image_and_boxes(picture, one)
        if not each:
            return []
        found = self.predict_crop_batches(self._iter_crop_batches(images, each, batch_size))
        ends = np.cumsum([len(one) for one in each]).tolist()
        spans = zip([0, *ends], ends, strict=False)
        return [_extract_predictions(found, start, end) for start, end in spans]

    def predict_crop_batches(self, batches: Iterable[EvalBatch]) -> KeypointPredictions:
        """Predict batches of ready crops."""
        found = predict_batches(self._folded_model, batches, decoding=build_decode_config(self.spec))
        return found if len(found.ids) else KeypointPredictions.make_empty(len(self.spec.skeleton))

    def predict_table(self, table: pa.Table, *, batch_size: int = 64) -> KeypointPredictions:
        """Predict evaluation rows (`data.rows.exact_row`) in memory, without Ray."""
        return self.predict_crop_batches(self._iter_table_batches(table, batch_size))

    def _iter_crop_batches(
        self, images: Sequence[np.ndarray], boxes_xywh: Sequence[np.ndarray], batch_size: int
    ) -> Iterator[EvalBatch]:
        input_hw = self.spec.input_hw
        matrices = records.compute_crop_matrices(
            np.concatenate(boxes_xywh), input_hw=input_hw, padding=self.spec.padding
        )
        owners = np.repeat(np.arange(len(boxes_xywh)), [len(one) for one in boxes_xywh])
        for start in range(0, len(matrices), batch_size):
            part = slice(start, start + batch_size)
            crops = [
                records.warp_crop(images[owner], matrix, input_hw=input_hw)
                for owner, matrix in zip(owners[part], matrices[part], strict=True)
            ]
            arrays = {
                "id": np.arange(start, start + len(crops)),
                "crop": np.stack(crops),
                "crop_from_image": matrices[part],
            }
            yield to_eval_batch(arrays, self.device)

    def _iter_table_batches(self, table: pa.Table, batch_size: int) -> Iterator[EvalBatch]:
        for start in range(0, table.num_rows, batch_size):
            part = table.slice(start, batch_size)
            arrays = records.decode_eval_batch(part, input_hw=self.spec.input_hw, padding=self.spec.padding)
            yield to_eval_batch(arrays, self.device)


def _validate_image_and_boxes(image: np.ndarray, boxes_xywh: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        form = f"{image.dtype} {list(image.shape)}"
        raise ValueError(f"an image is RGB uint8 [H, W, 3], this is {form}")
    if not (np.isfinite(boxes_xywh).all() and (boxes_xywh[:, 2:] > 0).all()):
        raise ValueError("a box is (x, y, w, h) in pixels, with w and h above 0")


def _extract_predictions(predictions: KeypointPredictions, start: int, end: int) -> KeypointPredictions:
    """Those of one image, counted from 0."""
    return KeypointPredictions(
        predictions.ids[start:end] - start,
        predictions.image_xy[start:end],
        predictions.scores[start:end],
    )


def make_full_image_box(image: np.ndarray) -> np.ndarray:
    """Its box, float64 [1, 4], by the published count: that of W x H pixels is (W-1) x (H-1)."""
    height, width = image.shape[:2]
    return np.array([[0.0, 0.0, max(1, width - 1), max(1, height - 1)]])


def build_decode_config(spec: ModelSpec) -> DecodeConfig:
    """How the model's heatmaps are read."""
    return DecodeConfig(
        method=spec.decode,
        flip_order=spec.skeleton.flip_order if spec.flip_test else None,
        shift_heatmap=spec.shift_heatmap,
        sigma=spec.sigma,
    )
