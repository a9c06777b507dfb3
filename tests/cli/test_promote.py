"""Test `hrnet-ray promote` with five models and an MLflow store in a file."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import list_artifacts

from hrnet_ray.cli import main
from hrnet_ray.cli.model_registration import register_challenger
from hrnet_ray.config import ClusterConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.distributed.training.mlflow_run import tag_model_hashes
from hrnet_ray.runs.run_dir import ARTIFACTS
from hrnet_ray.tracking import DatasetVersion, MlflowExperiment, RunLogger, default_tracking_uri
from tests.evaluation.evaluated_models import EASY, write_model, write_tigers

NAME = "hrnet-tigers"
POOR, FAIR, GOOD = {"seed": 0}, {"seed": 3}, {"seed": 3, "padding": 0.4}  # AP 0.07, 0.27, 0.72


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command, and the aliases of the versions after it."""

    code: int | str | None
    stdout: str
    stderr: str
    aliases: dict[str, str]


@dataclass(frozen=True)
class Workspace:
    """A dataset and a storage folder in which the commands run."""

    tigers: DatasetManifest
    storage: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(default_tracking_uri(self.storage))

    def train(self, name: str, **model: float) -> Path:
        """Write the folder of a finished run and log it to MLflow."""
        folder = self.storage / "tigers" / name
        write_model(folder / "model", EASY, **model)
        settings = {"data.root": str(self.tigers.root)}
        (folder / "resolved_config.json").write_text(json.dumps(settings))
        board = MlflowExperiment.open_for_dataset("tigers", storage_dir=self.storage, tracking_uri=None)
        root, digest = str(self.tigers.root), self.tigers.digest
        data = [DatasetVersion(name="tigers-val", digest=digest, root=root, context="val")]
        tags = {"kind": "train"}
        run = RunLogger.open_or_resume(board, folder, name=name, params=settings, tags=tags, datasets=data)
        tag_model_hashes(run, folder)
        run.log_artifacts(folder, relative_paths=ARTIFACTS)
        run.finish_run("FINISHED")
        return folder

    def call(self, verb: str, *words: object) -> CommandResult:
        self.capsys.readouterr()
        more = ["--resamples", "40"] if verb != "predict" and "--rollback" not in words else []
        with pytest.raises(SystemExit) as end:
            main([verb, *map(str, words), *more])
        captured = self.capsys.readouterr()
        return CommandResult(end.value.code, captured.out, captured.err, self.aliases())

    def aliases(self) -> dict[str, str]:
        """Return the version of each alias."""
        found = self.client.search_registered_models()
        return {alias: str(v) for model in found for alias, v in model.aliases.items()}


@pytest.fixture(scope="module")
def tigers(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return write_tigers(tmp_path_factory.mktemp("tigers"))


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture
def workspace(tigers: DatasetManifest, storage: Path, capsys: pytest.CaptureFixture[str]) -> Workspace:
    return Workspace(tigers, storage, capsys)


@pytest.mark.timeout(480)
def test_the_champion_changes_only_for_a_better_model(workspace: Workspace, tmp_path: Path):
    """One test, because each version takes seconds to export; its parts are below."""
    first = workspace.call("promote", workspace.train("fair", **FAIR))
    assert (first.code, first.aliases) == (0, {"champion": "1"})
    assert "promoted: there was no champion" in first.stdout

    worse = workspace.call("promote", workspace.train("poor", **POOR))
    assert (worse.code, worse.aliases) == (1, {"champion": "1", "challenger": "2"})
    assert "not promoted: worse, the 95 % interval of the difference lies below 0" in worse.stdout

    good = workspace.train("good", **GOOD)
    better = workspace.call("promote", good)
    assert (better.code, better.stderr) == (0, "")
    assert better.aliases == {"champion": "3", "previous": "1", "challenger": "2"}
    assert "promoted: better, the 95 % interval of the difference" in better.stdout

    again = workspace.call("promote", good)
    assert (again.code, again.aliases) == (0, better.aliases)
    assert again.stdout == f"{NAME} version 3 has the same files: it is already the champion\n"

    back = workspace.call(
        "promote",
        "--rollback",
        "--data",
        workspace.tigers.root,
        "--storage-path",
        workspace.storage,
    )
    assert (back.code, back.aliases) == (0, better.aliases | {"champion": "1", "previous": "3"})

    run_id = workspace.client.get_model_version(NAME, "2").run_id
    forced = workspace.call("promote", run_id, "--force", "--storage-path", workspace.storage)
    assert (forced.code, forced.aliases) == (0, {"champion": "2", "previous": "1"})
    assert "promoted: forced, although worse" in forced.stdout

    _check_that_the_best_of_a_study_is_the_challenger(workspace, good, champion=workspace.storage / "tigers" / "poor")
    _check_the_tags_of_a_version(workspace)
    _check_evaluate_and_predict_with_mlflow_names(workspace, tmp_path)
    _check_that_a_changed_artifact_is_refused(workspace, tmp_path)


def _check_that_the_best_of_a_study_is_the_challenger(workspace: Workspace, study: Path, *, champion: Path) -> None:
    here, root = ClusterConfig(storage_path=str(workspace.storage)), str(workspace.tigers.root)
    register_challenger(study, root, here)
    aliases = workspace.aliases()
    assert aliases == {"champion": "2", "previous": "1", "challenger": "3"}
    assert workspace.capsys.readouterr().out == (
        f"  registry  {NAME} version 3 is the challenger; to compare: hrnet-ray promote {study}\n"
    )

    register_challenger(champion, root, here)
    register_challenger(study, root, replace(here, tracking_uri="http://me:secret@127.0.0.1:9"))
    register_challenger(study, f"{root}-gone", here)
    (study / "model" / "model.safetensors").rename(study / "aside")
    register_challenger(study, root, here)
    (study / "aside").rename(study / "model" / "model.safetensors")
    assert workspace.aliases() == aliases
    already, no_server, no_data, no_model = workspace.capsys.readouterr().out.splitlines()
    assert already == f"  registry  {NAME} version 2 is already the champion"
    assert no_server.startswith("  registry  not registered (the MLflow store does not answer, http")
    promote = f"later: hrnet-ray promote {study}"
    assert no_server.endswith(f"{promote} --tracking-uri http://127.0.0.1:9")
    assert "secret" not in no_server
    assert no_data == f"  registry  not registered (no such folder, --data.root {root}-gone); {promote}"
    assert no_model.startswith("  registry  not registered (")
    assert no_model.endswith(promote)


def _check_the_tags_of_a_version(workspace: Workspace) -> None:
    version = workspace.client.get_model_version(NAME, "3")
    assert version.tags["promoted"] == "yes"
    assert version.tags["against"] == f"models:/{NAME}/1"
    assert version.tags["data.digest"] == workspace.tigers.digest
    assert float(version.tags["OKS_AP"]) > 0.6
    assert version.tags["difference"].startswith("+0.")
    assert version.description.startswith("promoted: better, the 95 % interval of the difference")
    assert version.description.splitlines()[3] == "|---|---|---|"
    assert "# HRNet-W8 for easy" in version.description
    assert f"| version | {NAME} version 3 | {NAME} version 1 |" in version.description
    run = workspace.client.get_run(version.run_id)
    assert run.info.run_name == "good"
    assert run.data.metrics["eval/tigers.OKS_AP"] == pytest.approx(float(version.tags["OKS_AP"]), abs=1e-4)


def _check_evaluate_and_predict_with_mlflow_names(workspace: Workspace, tmp_path: Path) -> None:
    run_id = workspace.client.get_model_version(NAME, "3").run_id
    evaluated = workspace.call(
        *("evaluate", "--model", run_id, "--compare-to", f"models:/{NAME}@previous"),
        *("--data", workspace.tigers.root, "--storage-path", workspace.storage),
    )
    assert (evaluated.code, evaluated.stderr) == (0, "")
    assert f"beyond noise: {run_id} is better" in evaluated.stdout
    assert f"logged to MLflow: run {run_id}" in evaluated.stdout
    assert "no sha256 to check" not in evaluated.stdout
    files = list_artifacts(
        run_id=run_id,
        artifact_path="evaluation/tigers",
        tracking_uri=default_tracking_uri(workspace.storage),
    )
    assert {Path(file.path).name for file in files} == {
        *("scores.json", "predictions.coco.json", "evaluation.html"),
        *("pck_curve.png", "per_keypoint.png", "worst_predictions.png"),
    }
    not_logged = workspace.call(
        *("evaluate", "--model", f"models:/{NAME}/1", "--log-to-mlflow", "False"),
        *("--data", workspace.tigers.root, "--storage-path", workspace.storage),
    )
    assert (not_logged.code, "logged to MLflow" in not_logged.stdout) == (0, False)
    (image, *_) = (Path(str(workspace.tigers.root)).parent / "raw" / "images" / "val").iterdir()
    predicted = workspace.call(
        *("predict", "--model", f"models:/{NAME}@champion", "--storage-path", workspace.storage),
        *("--input", image, "--out", tmp_path / "out"),
    )
    assert (predicted.code, predicted.stderr) == (0, "")


def _check_that_a_changed_artifact_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    (folder,) = {
        file.parent
        for file in workspace.storage.rglob("hrnet/config.json")
        if json.loads(file.read_text())["padding"] == 0.4
    }
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"padding": 4.0}))

    (image, *_) = (Path(str(workspace.tigers.root)).parent / "raw" / "images" / "val").iterdir()
    where = {"predict": ("--input", image), "evaluate": ("--data", workspace.tigers.root)}
    for verb, rest in where.items():
        refused = workspace.call(*(verb, "--model", f"models:/{NAME}/3", "--storage-path", workspace.storage), *rest)
        assert refused.code == 3
        assert refused.stderr == (
            "error: a model that was changed after it was registered\n"
            f"  --model models:/{NAME}/3: {NAME} version 3: config.json is not the file of its tag "
            "config.sha256\n"
            "  fix: find out who wrote there; promote the run again, or use another version\n"
        )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "missing argument RUN\n"),
        (["--rollback"], 2, "--rollback needs --data and no RUN\n"),
        (["{empty}/tigers/x"], 2, "the MLflow database does not exist\n  {empty}/mlflow.db\n"),
        (["{storage}/tigers/none"], 3, "the model does not exist\n  RUN {storage}/tigers/none\n"),
        (
            ["0" * 32, "--storage-path", "{storage}"],
            3,
            "the model does not exist\n  RUN " + "0" * 32,
        ),
        (["{storage}/unlogged", "--data", "{data}"], 3, "the model has no MLflow run\n"),
        (["{storage}/unlogged"], 2, "the run records no dataset\n"),
    ],
)
def test_mistakes_are_answered_in_three_lines(
    workspace: Workspace, tmp_path: Path, words: list[str], code: int, message: str
):
    if not (workspace.storage / "mlflow.db").is_file():
        MlflowClient(default_tracking_uri(workspace.storage)).search_experiments()
    if not (workspace.storage / "unlogged").is_dir():
        write_model(workspace.storage / "unlogged" / "model", EASY)
    names = {"storage": workspace.storage, "empty": tmp_path, "data": workspace.tigers.root}
    more = ["--storage-path", str(tmp_path)] if "{empty}" in "".join(words) else []

    result = workspace.call("promote", *(word.format(**names) for word in words), *more)

    assert result.code == code
    assert result.stderr.startswith(f"error: {message.format(**names)}")
    assert len(result.stderr.splitlines()) == 3
