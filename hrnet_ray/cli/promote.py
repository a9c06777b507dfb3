"""`hrnet-ray promote`: register a run's model and make it the champion if it scores higher."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from hrnet_ray.cli.champion_comparison import (
    build_comparison_rows,
    build_decision_tags,
    decide_promotion,
    format_markdown,
    format_validation_set_note,
)
from hrnet_ray.cli.evaluate import (
    ScoringArgs,
    build_eval_model,
    build_evaluation_spec,
    select_predictor,
)
from hrnet_ray.cli.log_evaluation import EvaluationLogger, build_run_not_found_error, find_run_id
from hrnet_ray.cli.model_registration import read_model_card, register_model
from hrnet_ray.cli.model_resolution import (
    MlflowStoreArgs,
    ResolvedModel,
    find_storage_dir,
    resolve_model,
)
from hrnet_ray.cli.terminal_table import print_table
from hrnet_ray.data.manifest import DatasetManifest, read_manifest
from hrnet_ray.errors import ClusterError, DataError, UsageError
from hrnet_ray.evaluation.model_evaluation import (
    EvalModel,
    EvaluationResult,
    evaluate_model,
)
from hrnet_ray.inference.model_package import compute_file_hashes
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
class PromoteArgs(ScoringArgs):
    """Register a run's model as hrnet-DATASET and make it the champion if it scores higher.

    Both models are scored on the same validation rows. The candidate wins if the confidence
    interval of the difference lies above 0.
    """

    run: tyro.conf.Positional[str | None] = None
    """Folder of a run or a study, or id of an MLflow run."""
    data: str | None = None
    """Folder or URI of the dataset to score on; by default the one that the run was trained on."""
    tracking_uri: str | None = None
    """MLflow server; by default the database in the storage folder of the run."""
    storage_path: Path | None = None
    """Storage folder of the runs; by default the one that contains the run's folder."""
    force: bool = False
    """Make the model the champion even if it does not score higher; its version records this."""
    rollback: bool = False
    """Restore the previous champion; give --data and no RUN."""


def run(args: PromoteArgs) -> int:
    """Promote or roll back; return 0 if the run's model is the champion afterwards, else 1."""
    if args.rollback:
        return _restore_previous_champion(args)
    if args.run is None:
        raise UsageError(
            "missing argument RUN",
            "hrnet-ray promote",
            "give a run's folder (runs/<dataset>/<run>), or the id of an MLflow run",
        )
    store = MlflowStoreArgs(
        tracking_uri=args.tracking_uri,
        storage_path=args.storage_path or find_storage_dir(Path(args.run)),
    )
    with tempfile.TemporaryDirectory(prefix="hrnet-ray-") as scratch:
        candidate = PromotionCandidate.from_run(args.run, args, store, Path(scratch))
        return candidate.evaluate_and_promote()


@dataclass(frozen=True)
class PromotionCandidate:
    """The model of a run, and the registered model that it may become the champion of."""

    args: PromoteArgs
    store: MlflowStoreArgs
    registry: ModelRegistry
    resolved_model: ResolvedModel
    run: Run
    manifest: DatasetManifest
    model_name: str
    """Name of the registered model."""

    @classmethod
    def from_run(
        cls, run_ref: str, args: PromoteArgs, store: MlflowStoreArgs, download_dir: Path
    ) -> "PromotionCandidate":
        """Load the model, its run and its dataset before the evaluation.

        Raises:
            HrnetRayError: one of them is missing.
        """
        registry = store.open_registry()
        loaded = resolve_model(run_ref, "RUN", store, download_dir=download_dir)
        if not loaded.path.is_dir():
            raise UsageError("RUN must be a run, got a weights file", f"RUN {run_ref}", "give the run's folder")
        root = args.data or _find_dataset_root(run_ref, loaded, registry)
        manifest = read_manifest(root, "--data")
        run_id = loaded.run_id or find_run_id(Path(run_ref), registry, manifest.name)
        run = registry.get_run(run_id) if run_id else None
        if not run:
            raise build_run_not_found_error(run_ref, registry)
        return cls(args, store, registry, loaded, run, manifest, get_registered_model_name(manifest.name))

    def evaluate_and_promote(self) -> int:
        """Score both models on the same rows, register the candidate and set the aliases."""
        hashes = compute_file_hashes(self.resolved_model.path)
        champion = self.registry.get_by_alias(self.model_name, CHAMPION)
        if champion and hashes.items() <= champion.tags.items():
            print(f"{champion} has the same files: it is already the champion")
            return 0
        evaluation = self._evaluate_against_champion(champion)
        decision = decide_promotion(evaluation, force=self.args.force)
        version = register_model(self.registry, self.model_name, self.run, self.resolved_model)
        note = format_validation_set_note(self.manifest, "val", champion.tags if champion else {})
        names = (str(version), str(champion) if champion else "")
        rows = build_comparison_rows(decision, evaluation, names, note)
        print_table(["", "candidate", "champion" if champion else ""], rows)
        tags = build_decision_tags(decision, evaluation, self.manifest)
        self.registry.annotate_version(version, tags, format_markdown(rows, read_model_card(self.resolved_model)))
        EvaluationLogger(self.registry, self.run.info.run_id).log_evaluation(evaluation, None)
        if decision.promoted:
            self._promote_to_champion(version, champion)
        else:
            self.registry.set_alias(CHALLENGER, version)
        return 0 if decision.promoted else EXIT_CODE_NOT_PROMOTED

    def _evaluate_against_champion(self, champion: RegisteredVersion | None) -> EvaluationResult:
        baseline = None
        if champion:
            resolved_champion = resolve_model(champion.uri, "champion", self.store)
            baseline = self._build_eval_model(champion.uri, resolved_champion)
        return evaluate_model(
            self.manifest,
            build_evaluation_spec(self.args),
            self._build_eval_model(str(self.args.run), self.resolved_model),
            baseline,
            split_predictor=select_predictor(self.args),
            progress=make_progress_line,
        )

    def _build_eval_model(self, name: str, resolved_model: ResolvedModel) -> EvalModel:
        return build_eval_model(name, resolved_model, self.args, resolved_model.spec)

    def _promote_to_champion(self, version: RegisteredVersion, champion: RegisteredVersion | None) -> None:
        """Set the aliases `champion` and `previous`.

        Raises:
            ClusterError: another command changed the champion during the evaluation.
        """
        current = self.registry.get_by_alias(self.model_name, CHAMPION)
        if (current and current.version_number) != (champion and champion.version_number):
            raise ClusterError(
                "the champion changed during the evaluation",
                f"{self.model_name}: {current or 'none'} instead of {champion or 'none'}",
                "run the same command again to compare with the new champion",
            )
        if champion:  # before the other alias, so that an interruption loses neither
            self.registry.set_alias(PREVIOUS, champion)
        self.registry.set_alias(CHAMPION, version)
        challenger = self.registry.get_by_alias(self.model_name, CHALLENGER)
        if challenger and challenger.version_number == version.version_number:
            self.registry.delete_alias(CHALLENGER, self.model_name)


def _restore_previous_champion(args: PromoteArgs) -> int:
    """Exchange the aliases `champion` and `previous`."""
    if args.data is None or args.run:
        raise UsageError(
            "--rollback needs --data and no RUN",
            "hrnet-ray promote --rollback",
            "give --data with the dataset's folder, and omit RUN",
        )
    store = MlflowStoreArgs(tracking_uri=args.tracking_uri, storage_path=args.storage_path or Path("runs"))
    registry = store.open_registry()
    name = get_registered_model_name(read_manifest(args.data, "--data").name)
    champion = registry.get_by_alias(name, CHAMPION)
    previous = registry.get_by_alias(name, PREVIOUS)
    if not champion or not previous:
        raise DataError(
            "the model has no previous champion",
            f"{name} in {registry.redacted_uri}",
            "promote another run: hrnet-ray promote RUN",
        )
    registry.set_alias(PREVIOUS, champion)
    registry.set_alias(CHAMPION, previous)
    print(f"{previous} is the champion again; {champion} is now the previous champion")
    return 0


def _find_dataset_root(run_ref: str, resolved_model: ResolvedModel, registry: ModelRegistry) -> str:
    """Find the root of the dataset that a run was trained on, in MLflow or in its folder.

    Raises:
        UsageError: the run records no dataset.
    """
    root = registry.get_dataset_root(resolved_model.run_id) if resolved_model.run_id else None
    for folder in (Path(run_ref), Path(run_ref).parent):
        if not root and (folder / "resolved_config.json").is_file():
            try:
                root = json.loads((folder / "resolved_config.json").read_bytes()).get("data.root")
            except (ValueError, AttributeError):
                root = None
    if not isinstance(root, str) or not root:
        raise UsageError("the run records no dataset", f"RUN {run_ref}", "give --data")
    return root
