"""A run's model in MLflow's registry: one version for one model, however often it is offered."""

from pathlib import Path

from hrnet_ray.cli.log_evaluation import no_run, run_id_of
from hrnet_ray.cli.model_resolution import Loaded, Store, load
from hrnet_ray.cli.train import near
from hrnet_ray.config import Cluster
from hrnet_ray.data.manifest import read_manifest
from hrnet_ray.errors import HrnetRayError
from hrnet_ray.inference.model_package import CARD, fingerprints
from hrnet_ray.runs.log_capture import LOG, keep_story
from hrnet_ray.text import printable, without_secrets
from hrnet_ray.tracking.logged_model import log_model
from hrnet_ray.tracking.model_registry import (
    CHALLENGER,
    CHAMPION,
    Registry,
    Run,
    Version,
    registered_name,
)


def register(registry: Registry, name: str, run: Run, loaded: Loaded) -> Version:
    """The version of a run's model; where this very model was registered before, that one."""
    tags = fingerprints(loaded.path)
    if known := registry.alike(name, tags):
        return known
    print("exporting the model for MLflow (seconds; a minute on a busy machine)", flush=True)
    logged = log_model(registry, run, loaded.path, loaded.model, loaded.spec)
    return registry.register(
        name,
        run_id=run.info.run_id,
        model_id=logged.model_id,
        place=logged.place,
        tags=tags | logged.tags,
    )


def card_of(loaded: Loaded) -> str:
    """The model card, for the version's page; anybody may have removed it."""
    path = loaded.path / CARD
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def challenge(study: Path, data_root: str, cluster: Cluster) -> None:
    """Make a study's best model the challenger, and say so; the study is over whatever happens."""
    uri = without_secrets(cluster.tracking_uri) if cluster.tracking_uri else None
    later = f"hrnet-ray promote {near(study)}" + (f" --tracking-uri {uri}" if uri else "")
    try:
        version, champion = _challenger(study, data_root, cluster)
    except HrnetRayError as error:
        _say(f"not registered ({error.what}, {error.where}); later: {later}")
    except Exception as error:  # an export that torch cannot do spoils no search
        keep_story(study)
        _say(f"not registered ({type(error).__name__}, see {near(study / LOG)})")
    else:
        known = "the champion already" if champion else f"the challenger; judged by: {later}"
        _say(f"{version} is {known}")


def _say(what: str) -> None:
    print(f"  registry  {printable(' '.join(without_secrets(what).split()))}", flush=True)


def _challenger(study: Path, data_root: str, cluster: Cluster) -> tuple[Version, bool]:
    registry = Store(cluster.tracking_uri, Path(cluster.storage)).open()
    data_name = read_manifest(data_root).name
    run_id = run_id_of(study, registry, data_name)
    run = registry.run(run_id) if run_id else None
    if not run:
        raise no_run(str(study), registry)
    name = registered_name(data_name)
    loaded = load(str(study), "study", Store())
    version = register(registry, name, run, loaded)
    if "promoted" not in version.tags:
        registry.note(version, {}, f"the best of a study, not judged yet\n\n{card_of(loaded)}")
    champion = registry.at(name, CHAMPION)
    if champion and champion.number == version.number:
        return version, True
    registry.move(CHALLENGER, version)
    return version, False
