"""Where poses are looked for: in the whole picture, in given boxes, or in a detector's."""

from pathlib import Path

import numpy as np

from hrnet_ray.cli.prediction.box_file import GivenBoxes
from hrnet_ray.cli.prediction.inputs import Shot
from hrnet_ray.inference.box_tracker import Following
from hrnet_ray.inference.detectors.detector import Detector
from hrnet_ray.inference.predictor import whole_picture
from hrnet_ray.metrics.predictions import Predictions

NONE = np.zeros((0, 5))


class Boxes:
    """The box of the whole picture; its children know better ones."""

    moves = False
    """The next shot's boxes depend on what is found in this one's."""

    def on(self, shot: Shot) -> np.ndarray:
        """Where to look: float64 [N, 5] of x, y, w, h and how sure the box is."""
        return np.append(whole_picture(shot.picture), [[1.0]], axis=1)

    def are_its_own(self, shot: Shot) -> bool:
        """Whether somebody gave boxes for just this frame."""
        return False

    def saw(self, found: Predictions) -> None:
        """Learn what was found in the boxes of the last shot."""

    def told(self, where: str) -> str:
        """What to say of shots without a box."""
        return f"there is no box on {where}"


class Given(Boxes):
    """Those of a file."""

    def __init__(self, given: GivenBoxes, root: Path, said: str) -> None:
        self._given, self._root, self._said = given, root, said

    def on(self, shot: Shot) -> np.ndarray:
        number = None if shot.frame is None else shot.frame.number
        found = self._given.on(self._root / shot.file, number)
        return NONE if found is None else found

    def are_its_own(self, shot: Shot) -> bool:
        own = self._given.of_frames.get(self._root / shot.file, {})
        return shot.frame is not None and shot.frame.number in own

    def told(self, where: str) -> str:
        return f"{where} have no boxes in {self._said}"


class Detected(Boxes):
    """Those that a detector finds."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def on(self, shot: Shot) -> np.ndarray:
        return self._detector(shot.picture)

    def told(self, where: str) -> str:
        return f"the detector found nothing on {where}"


class Followed(Boxes):
    """Those of another kind, moving along with their poses from frame to frame of a video.

    A frame that was given boxes of its own begins anew with these.
    """

    moves = True

    def __init__(self, first: Boxes) -> None:
        self._first = first
        self._video: Path | None = None
        self._following = Following(NONE)

    def on(self, shot: Shot) -> np.ndarray:
        video = shot.file if shot.frame else None
        if video is None or video != self._video or self._first.are_its_own(shot):
            self._following = Following(self._first.on(shot))
        self._video = video
        return self._following.boxes.copy()  # `saw` moves them

    def saw(self, found: Predictions) -> None:
        self._following.saw(found)

    def told(self, where: str) -> str:
        return self._first.told(where)
