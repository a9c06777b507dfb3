"""`hrnet-ray promote`: which model is the champion, and why."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from hrnet_ray.cli.champion_comparison import (
    as_markdown,
    as_table,
    decide,
    lines_of,
    other_rows,
    tags_of,
)
from hrnet_ray.cli.evaluate import finder_of
from hrnet_ray.cli.log_evaluation import Telling, no_run, run_id_of
from hrnet_ray.cli.model_registration import card_of, register
from hrnet_ray.cli.model_resolution import Loaded, Store, device_of, load, store_above
from hrnet_ray.data.manifest import Manifest, read_manifest
from hrnet_ray.errors import ClusterError, DataError, UsageError
from hrnet_ray.evaluation.model_evaluation import Candidate, Evaluation, Question, evaluate
from hrnet_ray.inference.model_package import fingerprints
from hrnet_ray.metrics.bootstrap import RESAMPLES, SEED
from hrnet_ray.runs.progress import counter
from hrnet_ray.tracking.model_registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    Registry,
    Run,
    Version,
    registered_name,
)

NOT_BETTER = 1


@dataclass(frozen=True, kw_only=True)
class Args:
    """Register a run's model as hrnet-DATA, and make it the champion if it is better.

    Better means: on the same validation rows, the interval of the difference lies above 0.
    """

    run: tyro.conf.Positional[str | None] = None
    """A run's or a study's folder, or the id of an MLflow run."""
    data: str | None = None
    """Folder or URI of the data set to judge by; by default the one that the run was trained on."""
    tracking_uri: str | None = None
    """MLflow server; without one, the file in the storage that the run's folder is in."""
    storage: Path | None = None
    """Folder of the trainings, where that cannot be seen from the run."""
    force: bool = False
    """Make it the champion although it is not better; the version says so."""
    back: bool = False
    """No run: the champion before this one is the champion again."""
    confidence: float = 0.95
    """Of the interval of the difference."""
    resamples: int = RESAMPLES
    """Draws of the pictures that it is made from."""
    seed: int = SEED
    """Of these draws."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    workers: int | None = None
    """Share the rows among so many workers of a Ray cluster."""
    address: str | None = None
    """The Ray cluster of these workers; without one (and without RAY_ADDRESS), this machine."""


def run(args: Args) -> int:
    """Judge, register, note why, and move the alias; 0 when the run's model is the champion."""
    if args.back:
        return _back(args)
    if args.run is None:
        raise UsageError(
            "nobody to promote",
            "hrnet-ray promote",
            "give a run's folder (runs/<data set>/<run>), or the id of an MLflow run",
        )
    store = Store(args.tracking_uri, args.storage or store_above(Path(args.run)))
    with tempfile.TemporaryDirectory(prefix="hrnet-ray-") as scratch:
        contest = Contest.prepared(args.run, args, store, Path(scratch))
        return contest.held()


@dataclass(frozen=True)
class Contest:
    """A candidate, and what it has to win."""

    args: Args
    store: Store
    registry: Registry
    loaded: Loaded
    run: Run
    manifest: Manifest
    name: str
    """Of the registered model."""

    @classmethod
    def prepared(cls, text: str, args: Args, store: Store, scratch: Path) -> "Contest":
        """Find everything that is needed, before the work.

        Raises:
            HrnetRayError: a part is missing.
        """
        registry = store.open()
        loaded = load(text, "RUN", store, into=scratch)
        if not loaded.path.is_dir():
            raise UsageError("weights alone", f"RUN {text}", "give the folder of their run")
        root = args.data or _data_of(text, loaded, registry)
        manifest = read_manifest(root, "--data")
        run_id = loaded.run_id or run_id_of(Path(text), registry, manifest.name)
        run = registry.run(run_id) if run_id else None
        if not run:
            raise no_run(text, registry)
        return cls(args, store, registry, loaded, run, manifest, registered_name(manifest.name))

    def held(self) -> int:
        """Judge both on the same rows, register the candidate, and crown it if it has won."""
        mine = fingerprints(self.loaded.path)
        champion = self.registry.at(self.name, CHAMPION)
        if champion and mine.items() <= champion.tags.items():
            print(f"{champion} is this very model: it is the champion already")
            return 0
        evaluation = self._judged(champion)
        verdict = decide(evaluation, forced=self.args.force)
        version = register(self.registry, self.name, self.run, self.loaded)
        note = other_rows(self.manifest, "val", champion.tags if champion else {})
        names = (str(version), str(champion) if champion else "")
        lines = lines_of(verdict, evaluation, names, note)
        print(as_table(lines))
        tags = tags_of(verdict, evaluation, self.manifest)
        self.registry.note(version, tags, as_markdown(lines, card_of(self.loaded)))
        Telling(self.registry, self.run.info.run_id).tell(evaluation, None)
        if verdict.promoted:
            self._crown(version, champion)
        else:
            self.registry.move(CHALLENGER, version)
        return 0 if verdict.promoted else NOT_BETTER

    def _judged(self, champion: Version | None) -> Evaluation:
        args = self.args
        question = Question(confidence=args.confidence, resamples=args.resamples, seed=args.seed)
        against = None
        if champion:
            holder = load(champion.uri, "champion", self.store)
            against = self._candidate(champion.uri, holder)
        return evaluate(
            self.manifest,
            question,
            self._candidate(str(args.run), self.loaded),
            against,
            finder=finder_of(args),
            progress=counter,
        )

    def _candidate(self, name: str, loaded: Loaded) -> Candidate:
        here = torch.device("cpu") if self.args.workers else device_of(self.args.device)
        return Candidate(name=name, model=loaded.model, spec=loaded.spec, device=here)

    def _crown(self, version: Version, champion: Version | None) -> None:
        """Move the alias, unless somebody else did while this contest was held."""
        now = self.registry.at(self.name, CHAMPION)
        if (now and now.number) != (champion and champion.number):
            raise ClusterError(
                "another champion was chosen meanwhile",
                f"{self.name}: {now or 'none'} instead of {champion or 'none'}",
                "the same command judges against that one",
            )
        if champion:  # first: a stop between the two loses nobody
            self.registry.move(PREVIOUS, champion)
        self.registry.move(CHAMPION, version)
        challenger = self.registry.at(self.name, CHALLENGER)
        if challenger and challenger.number == version.number:
            self.registry.drop(CHALLENGER, self.name)


def _back(args: Args) -> int:
    """Let champion and previous change places."""
    if args.data is None or args.run:
        raise UsageError(
            "whose champion?",
            "hrnet-ray promote --back",
            "give --data alone: the set's folder",
        )
    registry = Store(args.tracking_uri, args.storage or Path("runs")).open()
    name = registered_name(read_manifest(args.data, "--data").name)
    champion, previous = registry.at(name, CHAMPION), registry.at(name, PREVIOUS)
    if not champion or not previous:
        raise DataError(
            "no champion before this one",
            f"{name} in {registry.said}",
            "promote another run: hrnet-ray promote RUN",
        )
    registry.move(PREVIOUS, champion)
    registry.move(CHAMPION, previous)
    print(f"{previous} is the champion again; {champion} is the previous one now")
    return 0


def _data_of(text: str, loaded: Loaded, registry: Registry) -> str:
    """The data set that a run was trained on, as the run says.

    Raises:
        UsageError: it does not say.
    """
    root = registry.data_root(loaded.run_id) if loaded.run_id else None
    for folder in (Path(text), Path(text).parent):
        if not root and (folder / "resolved.json").is_file():
            try:
                root = json.loads((folder / "resolved.json").read_bytes()).get("data.root")
            except (ValueError, AttributeError):
                root = None
    if not isinstance(root, str) or not root:
        raise UsageError("a run that does not name its data set", f"RUN {text}", "give --data")
    return root
