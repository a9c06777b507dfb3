"""Tells a server what it does not know yet of a run: first the numbers, the heavy things last."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hrnet_ray.tracking.mlflow_store import RunIsGone, Server
from hrnet_ray.tracking.run_history import (
    SYSTEM,
    Picture,
    Point,
    finite,
    pictures_of,
    points_of,
    read_epochs,
    read_lines,
)
from hrnet_ray.tracking.run_record import RUNNING, Story, read_story
from hrnet_ray.tracking.sync_state import Told, read_told, write_told

EARLY = ("resolved.json", "command.txt", "environment.json")
"""What a run was started with: copied at once, not only when it ends."""


class Teller:
    """Tells one server of run folders, as often as one likes; each time only what is new."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._known: dict[Path, Told] = {}
        self._silent = False

    def fall_silent(self) -> None:
        """Tell and note nothing more, from any thread: somebody else may be doing it."""
        self._silent = self.server.silent = True

    def tell(self, folder: Path) -> None:
        """Tell what is new.

        Raises:
            ClusterError: the server did not take it; what it took before that is noted.
            OSError, ValueError: the folder cannot be read.
        """
        try:
            self._tell(folder)
        except RunIsGone:
            self._tell(folder)

    def _tell(self, folder: Path) -> None:
        story = read_story(folder)
        if story is None or self._silent:
            return
        told = self._opened(folder, story)
        steps: list[Callable[[Path, Story, Told], None]] = [
            self._tell_epochs,
            self._tell_machine,
            self._tell_figures,
            self._tell_tags,
            self._tell_end,
            self._tell_pictures,
            self._tell_files,
        ]
        for step in steps:
            if self._silent:
                return
            try:
                # A server that hung for minutes is told how things are now, not how they were.
                step(folder, read_story(folder) or story, told)
            except Exception:
                self._known.clear()  # who knows what is there when it answers again
                raise
            finally:
                self._note(folder, told)

    def _opened(self, folder: Path, story: Story) -> Told:
        """The run on the server. One that was not there counts as told nothing."""
        if folder in self._known:
            return self._known[folder]
        parent = self._parent_id(folder, story)
        told = read_told(folder, self.server.name)
        run_id, params = self.server.run_of(story, parent=parent)
        if run_id != told.run_id:
            told = Told(run_id=run_id)
        lacking = {name: value for name, value in story.params.items() if name not in params}
        self.server.marks(run_id, params=lacking, tags={})
        if not told.data and story.data:
            self.server.data(run_id, story.data)
            told.data = True
        self._known[folder] = told
        self._note(folder, told)
        return told

    def _note(self, folder: Path, told: Told) -> None:
        if not self._silent:
            write_told(folder, self.server.name, told)

    def _parent_id(self, folder: Path, story: Story) -> str | None:
        if story.parent is None:
            return None
        above = (folder / story.parent).resolve()
        theirs = read_story(above)
        return self._opened(above, theirs).run_id if theirs else None

    def _tell_epochs(self, folder: Path, story: Story, told: Told) -> None:
        fresh = list(_fresh_epochs(folder, told))
        points = [point for entry in fresh for point in points_of(entry, step=entry["epoch"])]
        if not points:
            return
        self.server.numbers(told.run_id, [finite(point) for point in points])
        infinite = {f"infinite.{p.name}": f"{p.value} at {p.step}" for p in points if _endless(p)}
        if infinite:
            self.server.marks(told.run_id, params={}, tags=infinite)
        told.epochs |= {str(entry["epoch"]): entry.get("at_ms", 0) for entry in fresh}

    def _tell_machine(self, folder: Path, story: Story, told: Told) -> None:
        lines = list(enumerate(read_lines(folder / SYSTEM)))[told.samples :]
        points = [finite(p) for step, entry in lines for p in points_of(entry, step=step)]
        if points:
            self.server.numbers(told.run_id, points)
        told.samples += len(lines)

    def _tell_figures(self, folder: Path, story: Story, told: Told) -> None:
        fresh = {n: f for n, f in story.figures.items() if told.figures.get(n) != f.at_ms}
        points = [Point(name, figure.value, 0, figure.at_ms) for name, figure in fresh.items()]
        if points:
            self.server.numbers(told.run_id, [finite(point) for point in points])
        told.figures |= {name: figure.at_ms for name, figure in fresh.items()}

    def _tell_tags(self, folder: Path, story: Story, told: Told) -> None:
        gone = sorted(told.tags.keys() - story.tags.keys())
        fresh = {name: v for name, v in story.tags.items() if told.tags.get(name) != v}
        if fresh or gone:
            self.server.marks(told.run_id, params={}, tags=fresh, gone=gone)
        told.tags = dict(story.tags)

    def _tell_end(self, folder: Path, story: Story, told: Told) -> None:
        if told.end != _end(story):
            self.server.end(told.run_id, story)
        told.end = _end(story)

    def _tell_pictures(self, folder: Path, story: Story, told: Told) -> None:
        times = {entry["epoch"]: entry.get("at_ms", 0) for entry in read_epochs(folder)}
        for picture in _fresh_pictures(folder, told):
            if picture.epoch in times:  # else its epoch is not over
                self.server.picture(told.run_id, picture, at_ms=times[picture.epoch])
                told.pictures.append(_label(picture))

    def _tell_files(self, folder: Path, story: Story, told: Told) -> None:
        for path, name, state in _fresh_files(folder, story, told):
            self.server.file(told.run_id, path, under=str(Path(name).parent).strip("."))
            told.files[name] = state


LOG = "log.txt"


def missing(folder: Path, server: str) -> Counter[str]:
    """How much `server` was not told yet of the run in `folder`."""
    story = read_story(folder)
    if story is None:
        return Counter()
    told = read_told(folder, server)
    return +Counter(
        {
            "epochs": len(list(_fresh_epochs(folder, told))),
            "pictures": len(list(_fresh_pictures(folder, told))),
            "files": len(list(_fresh_files(folder, story, told))),
            "ends": int(story.status != RUNNING and told.end != _end(story)),
        }
    )


def _fresh_epochs(folder: Path, told: Told) -> Iterator[dict[str, Any]]:
    for entry in read_epochs(folder):
        if told.epochs.get(str(entry["epoch"])) != entry.get("at_ms", 0):
            yield entry


def _fresh_pictures(folder: Path, told: Told) -> Iterator[Picture]:
    return (picture for picture in pictures_of(folder) if _label(picture) not in told.pictures)


def _fresh_files(folder: Path, story: Story, told: Told) -> Iterator[tuple[Path, str, list[int]]]:
    """Files below what the run gives away, that are new or not as they were.

    The log grows with every word, this one's too: it is told once for each end of the run.
    """
    for top in dict.fromkeys((*EARLY, *story.files)):
        for path in sorted([folder / top, *(folder / top).rglob("*")]):
            if path.is_file():
                name, stat = path.relative_to(folder).as_posix(), path.stat()
                state = [stat.st_size, stat.st_mtime_ns]
                if name == LOG:
                    state = _end(story)
                if (name != LOG or story.status != RUNNING) and told.files.get(name) != state:
                    yield path, name, state


def _end(story: Story) -> list[Any]:
    return [story.status, story.ended_ms if story.status != RUNNING else None]


def _label(picture: Picture) -> str:
    return f"{picture.name} {picture.epoch}"


def _endless(point: Point) -> bool:
    return math.isinf(point.value)
