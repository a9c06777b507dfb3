"""Registration of a run's model in MLflow. Registering is idempotent: one version per model."""

from pathlib import Path

from hrnet_ray.cli.log_evaluation import build_run_not_found_error, find_run_id
from hrnet_ray.cli.model_resolution import MlflowStoreArgs, ResolvedModel, resolve_model
from hrnet_ray.cli.train import to_short_path
from hrnet_ray.config import ClusterConfig
from hrnet_ray.data.manifest import read_manifest
from hrnet_ray.errors import HrnetRayError
from hrnet_ray.inference.model_package import MODEL_CARD_FILE, compute_file_hashes
from hrnet_ray.runs.log_capture import RUN_LOG, write_traceback
from hrnet_ray.text import escape_control_chars, redact_secrets
from hrnet_ray.tracking.logged_model import log_model
from hrnet_ray.tracking.model_registry import (
    CHALLENGER,
    CHAMPION,
    ModelRegistry,
    RegisteredVersion,
    Run,
    get_registered_model_name,
)


def register_model(
    registry: ModelRegistry, model_name: str, run: Run, resolved_model: ResolvedModel
) -> RegisteredVersion:
    """Return the version of a run's model, and register it first if the registry lacks it."""
    tags = compute_file_hashes(resolved_model.path)
    if version := registry.find_by_tags(model_name, tags):
        return version
    print("exporting the model for MLflow (seconds; a minute on a busy machine)", flush=True)
    logged = log_model(registry, run, resolved_model.path, resolved_model.model, resolved_model.spec)
    return registry.register_version(
        model_name,
        run_id=run.info.run_id,
        model_id=logged.model_id,
        artifact_uri=logged.artifact_uri,
        tags=tags | logged.tags,
    )


def read_model_card(resolved_model: ResolvedModel) -> str:
    """Read the model card for the version's page; return an empty text if the file is missing."""
    path = resolved_model.path / MODEL_CARD_FILE
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def register_challenger(study_dir: Path, data_root: str, cluster: ClusterConfig) -> None:
    """Make a study's best model the challenger and print the result; errors are printed, too."""
    uri = redact_secrets(cluster.tracking_uri) if cluster.tracking_uri else None
    later = f"hrnet-ray promote {to_short_path(study_dir)}" + (f" --tracking-uri {uri}" if uri else "")
    try:
        version, champion = _register_best_of_study(study_dir, data_root, cluster)
    except HrnetRayError as error:
        _print_status(f"not registered ({error.what}, {error.where}); later: {later}")
    except Exception as error:  # a failed export must not fail the finished study
        write_traceback(study_dir)
        _print_status(f"not registered ({type(error).__name__}, see {to_short_path(study_dir / RUN_LOG)})")
    else:
        status = "already the champion" if champion else f"the challenger; to compare: {later}"
        _print_status(f"{version} is {status}")


def _print_status(message: str) -> None:
    print(f"  registry  {escape_control_chars(' '.join(redact_secrets(message).split()))}", flush=True)


def _register_best_of_study(study_dir: Path, data_root: str, cluster: ClusterConfig) -> tuple[RegisteredVersion, bool]:
    store = MlflowStoreArgs(tracking_uri=cluster.tracking_uri, storage_path=Path(cluster.storage_path))
    registry = store.open_registry()
    data_name = read_manifest(data_root).name
    run_id = find_run_id(study_dir, registry, data_name)
    run = registry.get_run(run_id) if run_id else None
    if not run:
        raise build_run_not_found_error(str(study_dir), registry)
    name = get_registered_model_name(data_name)
    resolved_model = resolve_model(str(study_dir), "study", MlflowStoreArgs())
    version = register_model(registry, name, run, resolved_model)
    if "promoted" not in version.tags:
        registry.annotate_version(
            version,
            {},
            f"best model of a study, not evaluated yet\n\n{read_model_card(resolved_model)}",
        )
    champion = registry.get_by_alias(name, CHAMPION)
    if champion and champion.version_number == version.version_number:
        return version, True
    registry.set_alias(CHALLENGER, version)
    return version, False
