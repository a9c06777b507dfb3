"""`hrnet-ray promote`: which model is the champion, and why."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from hrnet_ray.cli.champion_comparison import (
    build_comparison_rows,
    build_decision_tags,
    decide_promotion,
    format_markdown,
    format_table,
    format_validation_set_note,
)
from hrnet_ray.cli.evaluate import select_predictor
from hrnet_ray.cli.log_evaluation import EvaluationLogger, build_run_not_found_error, find_run_id
from hrnet_ray.cli.model_registration import read_model_card, register_model
from hrnet_ray.cli.model_resolution import (
    MlflowStoreArgs,
    ResolvedModel,
    find_storage_dir,
    resolve_model,
    select_device,
)
from hrnet_ray.data.manifest import DatasetManifest, read_manifest
from hrnet_ray.errors import ClusterError, DataError, UsageError
from hrnet_ray.evaluation.model_evaluation import (
    EvalModel,
    EvaluationResult,
    EvaluationSpec,
    evaluate_model,
)
from hrnet_ray.inference.model_package import compute_file_hashes
from hrnet_ray.metrics.bootstrap import BOOTSTRAP_SEED, NUM_RESAMPLES
from hrnet_ray.runs.progress import make_progress_line
from hrnet_ray.tracking.model_registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    ModelRegistry,
    RegisteredVersion,
    Run,
    get_registered_model_name,
)

EXIT_CODE_NOT_PROMOTED = 1


@dataclass(frozen=True, kw_only=True)
class PromoteArgs:
    """Register a run's model as hrnet-DATA, and make it the champion if it is better.

    Better means: on the same validation rows, the interval of the difference lies above 0.
    """

    run: tyro.conf.Positional[str | None] = None
    """A run's or a study's folder, or the id of an MLflow run."""
    data: str | None = None
    """Folder or URI of the data set to judge by; by default the one that the run was trained on."""
    tracking_uri: str | None = None
    """MLflow server; without one, the file in the storage that the run's folder is in."""
    storage_path: Path | None = None
    """Folder of the trainings, where that cannot be seen from the run."""
    force: bool = False
    """Make it the champion although it is not better; the version says so."""
    rollback: bool = False
    """No run: the champion before this one is the champion again."""
    confidence: float = 0.95
    """Of the interval of the difference."""
    resamples: int = NUM_RESAMPLES
    """Draws of the pictures that it is made from."""
    seed: int = BOOTSTRAP_SEED
    """Of these draws."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    num_workers: int | None = None
    """Share the rows among so many workers of a Ray cluster."""
    ray_address: str | None = None
    """The Ray cluster of these workers; without one (and without RAY_ADDRESS), this machine."""


def run(args: PromoteArgs) -> int:
    """Judge, register, note why, and move the alias; 0 when the run's model is the champion."""
    if args.rollback:
        return _restore_previous_champion(args)
    if args.run is None:
        raise UsageError(
            "nobody to promote",
            "hrnet-ray promote",
            "give a run's folder (runs/<data set>/<run>), or the id of an MLflow run",
        )
    store = MlflowStoreArgs(
        args.tracking_uri, args.storage_path or find_storage_dir(Path(args.run))
    )
    with tempfile.TemporaryDirectory(prefix="hrnet-ray-") as scratch:
        contest = PromotionCandidate.from_run(args.run, args, store, Path(scratch))
        return contest.evaluate_and_promote()


@dataclass(frozen=True)
class PromotionCandidate:
    """A candidate, and what it has to win."""

    args: PromoteArgs
    store: MlflowStoreArgs
    registry: ModelRegistry
    resolved_model: ResolvedModel
    run: Run
    manifest: DatasetManifest
    model_name: str
    """Of the registered model."""

    @classmethod
    def from_run(
        cls, run_ref: str, args: PromoteArgs, store: MlflowStoreArgs, download_dir: Path
    ) -> "PromotionCandidate":
        """Find everything that is needed, before the work.

        Raises:
            HrnetRayError: a part is missing.
        """
        registry = store.open_registry()
        loaded = resolve_model(run_ref, "RUN", store, download_dir=download_dir)
        if not loaded.path.is_dir():
            raise UsageError("weights alone", f"RUN {run_ref}", "give the folder of their run")
        root = args.data or _find_dataset_root(run_ref, loaded, registry)
        manifest = read_manifest(root, "--data")
        run_id = loaded.run_id or find_run_id(Path(run_ref), registry, manifest.name)
        run = registry.get_run(run_id) if run_id else None
        if not run:
            raise build_run_not_found_error(run_ref, registry)
        return cls(
            args, store, registry, loaded, run, manifest, get_registered_model_name(manifest.name)
        )

    def evaluate_and_promote(self) -> int:
        """Judge both on the same rows, register the candidate, and crown it if it has won."""
        mine = compute_file_hashes(self.resolved_model.path)
        champion = self.registry.get_by_alias(self.model_name, CHAMPION)
        if champion and mine.items() <= champion.tags.items():
            print(f"{champion} is this very model: it is the champion already")
            return 0
        evaluation = self._evaluate_against_champion(champion)
        verdict = decide_promotion(evaluation, force=self.args.force)
        version = register_model(self.registry, self.model_name, self.run, self.resolved_model)
        note = format_validation_set_note(self.manifest, "val", champion.tags if champion else {})
        names = (str(version), str(champion) if champion else "")
        lines = build_comparison_rows(verdict, evaluation, names, note)
        print(format_table(lines))
        tags = build_decision_tags(verdict, evaluation, self.manifest)
        self.registry.annotate_version(
            version, tags, format_markdown(lines, read_model_card(self.resolved_model))
        )
        EvaluationLogger(self.registry, self.run.info.run_id).log_evaluation(evaluation, None)
        if verdict.promoted:
            self._promote_to_champion(version, champion)
        else:
            self.registry.set_alias(CHALLENGER, version)
        return 0 if verdict.promoted else EXIT_CODE_NOT_PROMOTED

    def _evaluate_against_champion(self, champion: RegisteredVersion | None) -> EvaluationResult:
        args = self.args
        question = EvaluationSpec(
            confidence=args.confidence, resamples=args.resamples, seed=args.seed
        )
        against = None
        if champion:
            holder = resolve_model(champion.uri, "champion", self.store)
            against = self._build_eval_model(champion.uri, holder)
        return evaluate_model(
            self.manifest,
            question,
            self._build_eval_model(str(args.run), self.resolved_model),
            against,
            split_predictor=select_predictor(args),
            progress=make_progress_line,
        )

    def _build_eval_model(self, name: str, resolved_model: ResolvedModel) -> EvalModel:
        here = torch.device("cpu") if self.args.num_workers else select_device(self.args.device)
        return EvalModel(
            name=name, model=resolved_model.model, spec=resolved_model.spec, device=here
        )

    def _promote_to_champion(
        self, version: RegisteredVersion, champion: RegisteredVersion | None
    ) -> None:
        """Move the alias, unless somebody else did while this contest was held."""
        now = self.registry.get_by_alias(self.model_name, CHAMPION)
        if (now and now.version_number) != (champion and champion.version_number):
            raise ClusterError(
                "another champion was chosen meanwhile",
                f"{self.model_name}: {now or 'none'} instead of {champion or 'none'}",
                "the same command judges against that one",
            )
        if champion:  # first: a stop between the two loses nobody
            self.registry.set_alias(PREVIOUS, champion)
        self.registry.set_alias(CHAMPION, version)
        challenger = self.registry.get_by_alias(self.model_name, CHALLENGER)
        if challenger and challenger.version_number == version.version_number:
            self.registry.delete_alias(CHALLENGER, self.model_name)


def _restore_previous_champion(args: PromoteArgs) -> int:
    """Let champion and previous change places."""
    if args.data is None or args.run:
        raise UsageError(
            "whose champion?",
            "hrnet-ray promote --rollback",
            "give --data alone: the set's folder",
        )
    registry = MlflowStoreArgs(args.tracking_uri, args.storage_path or Path("runs")).open_registry()
    name = get_registered_model_name(read_manifest(args.data, "--data").name)
    champion, previous = (
        registry.get_by_alias(name, CHAMPION),
        registry.get_by_alias(name, PREVIOUS),
    )
    if not champion or not previous:
        raise DataError(
            "no champion before this one",
            f"{name} in {registry.redacted_uri}",
            "promote another run: hrnet-ray promote RUN",
        )
    registry.set_alias(PREVIOUS, champion)
    registry.set_alias(CHAMPION, previous)
    print(f"{previous} is the champion again; {champion} is the previous one now")
    return 0


def _find_dataset_root(run_ref: str, resolved_model: ResolvedModel, registry: ModelRegistry) -> str:
    """The data set that a run was trained on, as the run says.

    Raises:
        UsageError: it does not say.
    """
    root = registry.get_dataset_root(resolved_model.run_id) if resolved_model.run_id else None
    for folder in (Path(run_ref), Path(run_ref).parent):
        if not root and (folder / "resolved_config.json").is_file():
            try:
                root = json.loads((folder / "resolved_config.json").read_bytes()).get("data.root")
            except (ValueError, AttributeError):
                root = None
    if not isinstance(root, str) or not root:
        raise UsageError("a run that does not name its data set", f"RUN {run_ref}", "give --data")
    return root
