"""Boxes on pictures by an ONNX file, whichever of the usual families it is of."""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch

from hrnet_ray.data.annotations import shown
from hrnet_ray.errors import UsageError
from hrnet_ray.inference.detectors.letterbox import GREY, fit
from hrnet_ray.inference.detectors.onnx_session import Answers, Net, described
from hrnet_ray.inference.detectors.output_formats import LAYOUTS, Candidates, Kind, possible_kinds

Wanted = Literal["auto", Kind]

MOST_CANDIDATES = 3000
"""The surest ones of a picture; comparing each with each costs the square."""
LEAST_SIDE = 1.0
"""Of a box, in pixels of the picture."""
MOST_SCORE = 1.01
"""A score is at most 1, but for the rounding of half numbers."""
_GIVE_KIND = "give another --detector-kind, or auto; or a file of one of these families"


class Detector:
    """Boxes on a picture, by an ONNX file of the user's.

    detector = Detector.from_file(Path("yolox_s.onnx"), classes=(16,))
    detector(picture)      # RGB uint8 [H, W, 3] -> float64 [N, 5]
    """

    def __init__(
        self, net: Net, kind: Kind, *, classes: tuple[int, ...] = (), least_score: float = 0.3
    ) -> None:
        self.net = net
        self.kind = kind
        self.classes = classes
        self.least_score = least_score
        self._layout = LAYOUTS[kind]

    @classmethod
    def from_file(
        cls,
        path: Path,
        *,
        kind: Wanted = "auto",
        classes: tuple[int, ...] = (),
        least_score: float = 0.3,
        device: str | torch.device = "cpu",
    ) -> "Detector":
        """Open a file, look at what it answers to a flat picture, and tell its family by that.

        Args:
            path: the file.
            kind: its family, where that does not tell it, or tells it wrongly.
            classes: numbers of those that are wanted, from 0; none for all.
            least_score: from which a box counts.
            device: CUDA is used where onnxruntime has it, and is asked for.

        Raises:
            UsageError: onnxruntime is not installed, `least_score` is no score, or the file has
                not as many classes.
            DataError: the file is damaged, no detector, or of no family that is known here.
        """
        if not 0 <= least_score <= 1:
            raise UsageError(
                "a score that cannot be",
                f"--detector-score {least_score}",
                "give a number from 0 to 1",
            )
        net = Net(path, device=device)
        _check_task(net)
        answers = net(np.full((3, *net.input_hw), GREY / 255, np.float32))
        chosen = _kind(net, answers) if kind == "auto" else kind
        detector = cls(net, chosen, classes=classes, least_score=least_score)
        _check_classes(classes, detector._read(answers).class_count)
        return detector

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Find boxes on RGB uint8 [H, W, 3].

        Returns:
            Float64 [N, 5]: x, y, width and height in pixels of the picture, none of it outside,
            and the score; the surest first.

        Raises:
            DataError: the file fails, or answers what no detector of its family does.
            ValueError: it is no such picture.
        """
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            form = f"{picture.dtype} {list(picture.shape)}"
            raise ValueError(f"a picture is RGB uint8 [H, W, 3], this is {form}")
        look = self._layout.look
        canvas = fit(picture, self.net.input_hw, centred=look.centred)
        found = self._read(self.net(look.planes(canvas.pixels)))
        boxes = _inside(canvas.to_picture(found.canvas_xyxy), picture.shape[:2])
        wanted = (found.scores >= self.least_score) & (boxes[:, 2:] >= LEAST_SIDE).all(axis=1)
        if self.classes:
            wanted &= np.isin(found.classes, self.classes)
        order = np.argsort(-found.scores, kind="stable")
        order = order[wanted[order]][:MOST_CANDIDATES]
        scored = np.hstack([boxes, found.scores[:, None]])[order]
        return self._once(scored, found.classes[order])

    def _read(self, answers: Answers) -> Candidates:
        """Candidates, unless they are none.

        Raises:
            DataError: the outputs have other shapes, or scores are above 1.
        """
        try:
            with np.errstate(all="ignore"):  # what is endless, or no number, is left out later
                found = self._layout.read(answers, self.net.input_hw)
        except ValueError as error:
            raise self.net.refused(
                f"no detector of the kind {self.kind} ({error})", described(answers), _GIVE_KIND
            ) from error
        if (found.scores > MOST_SCORE).any():
            raise self.net.refused(
                f"no detector of the kind {self.kind}: it answers scores above 1",
                f"{found.scores.max():.4g}; {described(answers)}",
                _GIVE_KIND,
            )
        return found

    def _once(self, boxes: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Leave out boxes that overlap a surer one of their class too much."""
        if self._layout.most_overlap is None or not len(boxes):
            return boxes
        kept = cv2.dnn.NMSBoxesBatched(
            boxes[:, :4].tolist(),
            boxes[:, 4].tolist(),
            classes.astype(int).tolist(),
            score_threshold=-1.0,  # they are sure enough already
            nms_threshold=self._layout.most_overlap,
        )
        return boxes[np.sort(np.asarray(kept, int))]


def _kind(net: Net, answers: Answers) -> Kind:
    """The one family that answers like this.

    Raises:
        DataError: there is none, there are several, or the file says that it does something else.
    """
    kinds = possible_kinds(answers, net.input_hw)
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise net.refused(
            "a detector of one of two families, which want their pictures otherwise",
            described(answers),
            f"give --detector-kind {' or '.join(kinds)}",
        )
    raise net.refused(
        "no detector whose outputs are known here",
        described(answers),
        f"give --detector-kind ({', '.join(LAYOUTS)}) if it is of one of these, or give --boxes",
    )


def _check_task(net: Net) -> None:
    """Ultralytics' files say what they do: keypoints and masks would be taken for classes."""
    task = net.metadata.get("task", "detect")
    if task != "detect":
        raise net.refused(
            "a net for something else than boxes",
            f"its task is {shown(task)}",
            "give one that was trained to detect",
        )


def _check_classes(classes: tuple[int, ...], count: int | None) -> None:
    wrong = [at for at in classes if at < 0 or (count is not None and at >= count)]
    if wrong:
        theirs = "" if count is None else f": the file has {count}, from 0 to {count - 1}"
        raise UsageError(
            "a class that the detector does not have",
            f"--detector-classes {wrong[0]}{theirs}",
            "give numbers of its classes, or none for all",
        )


def _inside(picture_xyxy: np.ndarray, picture_hw: tuple[int, int]) -> np.ndarray:
    """What of each box is in the picture: x, y, w, h [N, 4]; of endless ones, nothing."""
    height, width = picture_hw
    real = np.isfinite(picture_xyxy).all(axis=1, keepdims=True)
    corners = np.where(real, np.clip(picture_xyxy, 0, (width, height, width, height)), 0.0)
    return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
