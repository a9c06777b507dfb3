"""Who is the champion: a story of five models, told to a store in a file, and what it leaves."""

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
from tests.evaluation.evaluated_models import EASY, write_easy_tigers, write_model

NAME = "hrnet-tigers"
POOR, FAIR, GOOD = {"seed": 0}, {"seed": 3}, {"seed": 3, "padding": 0.4}  # AP 0.07, 0.27, 0.72


@dataclass(frozen=True)
class Ended:
    """What a command came to, and who had which alias after it."""

    code: int | str | None
    said: str
    complained: str
    aliases: dict[str, str]


@dataclass(frozen=True)
class World:
    """A data set, a storage, and the commands that were run in it."""

    tigers: DatasetManifest
    storage: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(default_tracking_uri(self.storage))

    def train(self, name: str, **model: float) -> Path:
        """A run's folder as a training leaves it, told to MLflow."""
        folder = self.storage / "tigers" / name
        write_model(folder / "model", EASY, **model)
        settings = {"data.root": str(self.tigers.root)}
        (folder / "resolved_config.json").write_text(json.dumps(settings))
        board = MlflowExperiment.open_for_dataset(
            "tigers", storage_dir=self.storage, tracking_uri=None
        )
        root, digest = str(self.tigers.root), self.tigers.digest
        data = [DatasetVersion(name="tigers-val", digest=digest, root=root, context="val")]
        tags = {"kind": "train"}
        run = RunLogger.open_or_resume(
            board, folder, name=name, params=settings, tags=tags, datasets=data
        )
        tag_model_hashes(run, folder)
        run.log_artifacts(folder, relative_paths=ARTIFACTS)
        run.finish_run("FINISHED")
        return folder

    def call(self, verb: str, *words: object) -> Ended:
        self.capsys.readouterr()
        more = ["--resamples", "40"] if verb != "predict" and "--rollback" not in words else []
        with pytest.raises(SystemExit) as end:
            main([verb, *map(str, words), *more])
        said = self.capsys.readouterr()
        return Ended(end.value.code, said.out, said.err, self.aliases())

    def aliases(self) -> dict[str, str]:
        """Which version has which."""
        found = self.client.search_registered_models()
        return {alias: str(v) for model in found for alias, v in model.aliases.items()}


@pytest.fixture(scope="module")
def tigers(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return write_easy_tigers(tmp_path_factory.mktemp("tigers"))


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture
def world(tigers: DatasetManifest, storage: Path, capsys: pytest.CaptureFixture[str]) -> World:
    return World(tigers, storage, capsys)


@pytest.mark.timeout(480)
def test_the_champion_changes_only_for_a_better_one(world: World, tmp_path: Path):
    """One story, because each version takes seconds to export; its chapters are below."""
    first = world.call("promote", world.train("fair", **FAIR))
    assert (first.code, first.aliases) == (0, {"champion": "1"})
    assert "promoted: there was no champion" in first.said

    worse = world.call("promote", world.train("poor", **POOR))
    assert (worse.code, worse.aliases) == (1, {"champion": "1", "challenger": "2"})
    assert "not promoted: worse, the 95 % interval of the difference lies below 0" in worse.said

    good = world.train("good", **GOOD)
    better = world.call("promote", good)
    assert (better.code, better.complained) == (0, "")
    assert better.aliases == {"champion": "3", "previous": "1", "challenger": "2"}
    assert "promoted: better, the 95 % interval of the difference" in better.said

    again = world.call("promote", good)
    assert (again.code, again.aliases) == (0, better.aliases)
    assert again.said == f"{NAME} version 3 is this very model: it is the champion already\n"

    back = world.call(
        "promote", "--rollback", "--data", world.tigers.root, "--storage-path", world.storage
    )
    assert (back.code, back.aliases) == (0, better.aliases | {"champion": "1", "previous": "3"})

    run_id = world.client.get_model_version(NAME, "2").run_id
    forced = world.call("promote", run_id, "--force", "--storage-path", world.storage)
    assert (forced.code, forced.aliases) == (0, {"champion": "2", "previous": "1"})
    assert "promoted: forced, though worse" in forced.said

    _a_studys_best_is_the_challenger(world, good, champion=world.storage / "tigers" / "poor")
    _the_version_says_why(world)
    _evaluate_and_predict_take_mlflows_names(world, tmp_path)
    _a_changed_artifact_is_refused(world, tmp_path)


def _a_studys_best_is_the_challenger(world: World, study: Path, *, champion: Path) -> None:
    here, root = ClusterConfig(storage_path=str(world.storage)), str(world.tigers.root)
    register_challenger(study, root, here)
    aliases = world.aliases()
    assert aliases == {"champion": "2", "previous": "1", "challenger": "3"}
    assert world.capsys.readouterr().out == (
        f"  registry  {NAME} version 3 is the challenger; judged by: hrnet-ray promote {study}\n"
    )

    register_challenger(champion, root, here)
    register_challenger(study, root, replace(here, tracking_uri="http://me:secret@127.0.0.1:9"))
    register_challenger(study, f"{root}-gone", here)
    (study / "model" / "model.safetensors").rename(study / "aside")
    register_challenger(study, root, here)
    (study / "aside").rename(study / "model" / "model.safetensors")
    assert world.aliases() == aliases
    already, unheard, gone, broken = world.capsys.readouterr().out.splitlines()
    assert already == f"  registry  {NAME} version 2 is the champion already"
    assert unheard.startswith("  registry  not registered (the MLflow store does not answer, http")
    promote = f"later: hrnet-ray promote {study}"
    assert unheard.endswith(f"{promote} --tracking-uri http://127.0.0.1:9")
    assert "secret" not in unheard
    assert (
        gone == f"  registry  not registered (no such folder, --data.root {root}-gone); {promote}"
    )
    assert broken.startswith("  registry  not registered (")
    assert broken.endswith(promote)


def _the_version_says_why(world: World) -> None:
    version = world.client.get_model_version(NAME, "3")
    assert version.tags["promoted"] == "yes"
    assert version.tags["against"] == f"models:/{NAME}/1"
    assert version.tags["data.digest"] == world.tigers.digest
    assert float(version.tags["OKS_AP"]) > 0.6
    assert version.tags["difference"].startswith("+0.")
    assert version.description.startswith("promoted: better, the 95 % interval of the difference")
    assert version.description.splitlines()[3] == "|---|---|---|"
    assert "# HRNet-W8 for easy" in version.description
    assert f"| version | {NAME} version 3 | {NAME} version 1 |" in version.description
    run = world.client.get_run(version.run_id)
    assert run.info.run_name == "good"
    assert run.data.metrics["eval/tigers.OKS_AP"] == pytest.approx(
        float(version.tags["OKS_AP"]), abs=1e-4
    )


def _evaluate_and_predict_take_mlflows_names(world: World, tmp_path: Path) -> None:
    run_id = world.client.get_model_version(NAME, "3").run_id
    judged = world.call(
        *("evaluate", "--model", run_id, "--compare-to", f"models:/{NAME}@previous"),
        *("--data", world.tigers.root, "--storage-path", world.storage),
    )
    assert (judged.code, judged.complained) == (0, "")
    assert f"beyond noise: {run_id} is better" in judged.said
    assert f"told MLflow: run {run_id}" in judged.said
    assert "no sha256 to check" not in judged.said
    files = list_artifacts(
        run_id=run_id,
        artifact_path="evaluation/tigers",
        tracking_uri=default_tracking_uri(world.storage),
    )
    assert {Path(file.path).name for file in files} == {
        *("scores.json", "predictions.coco.json", "evaluation.html"),
        *("pck_curve.png", "per_keypoint.png", "worst16.png"),
    }
    quiet = world.call(
        *("evaluate", "--model", f"models:/{NAME}/1", "--log-to-mlflow", "False"),
        *("--data", world.tigers.root, "--storage-path", world.storage),
    )
    assert (quiet.code, "told MLflow" in quiet.said) == (0, False)
    (picture, *_) = (Path(str(world.tigers.root)).parent / "raw" / "images" / "val").iterdir()
    seen = world.call(
        *("predict", "--model", f"models:/{NAME}@champion", "--storage-path", world.storage),
        *("--input", picture, "--out", tmp_path / "out"),
    )
    assert (seen.code, seen.complained) == (0, "")


def _a_changed_artifact_is_refused(world: World, tmp_path: Path) -> None:
    (folder,) = {
        file.parent
        for file in world.storage.rglob("hrnet/config.json")
        if json.loads(file.read_text())["padding"] == 0.4
    }
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"padding": 4.0}))

    (picture, *_) = (Path(str(world.tigers.root)).parent / "raw" / "images" / "val").iterdir()
    where = {"predict": ("--input", picture), "evaluate": ("--data", world.tigers.root)}
    for verb, rest in where.items():
        refused = world.call(
            *(verb, "--model", f"models:/{NAME}/3", "--storage-path", world.storage), *rest
        )
        assert refused.code == 3
        assert refused.complained == (
            "error: a model that was changed after it was registered\n"
            f"  --model models:/{NAME}/3: {NAME} version 3: config.json is not the file of its tag "
            "config.sha256\n"
            "  fix: find out who wrote there; promote the run again, or use another version\n"
        )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "nobody to promote\n"),
        (["--rollback"], 2, "whose champion?\n"),
        (["{empty}/tigers/x"], 2, "no MLflow store there\n  {empty}/mlflow.db\n"),
        (["{storage}/tigers/none"], 3, "no model there\n  RUN {storage}/tigers/none\n"),
        (["0" * 32, "--storage-path", "{storage}"], 3, "no model there\n  RUN " + "0" * 32),
        (["{storage}/untold", "--data", "{data}"], 3, "no MLflow run of this model\n"),
        (["{storage}/untold"], 2, "a run that does not name its data set\n"),
    ],
)
def test_mistakes_are_answered_in_three_lines(
    world: World, tmp_path: Path, words: list[str], code: int, said: str
):
    if not (world.storage / "mlflow.db").is_file():
        MlflowClient(default_tracking_uri(world.storage)).search_experiments()
    if not (world.storage / "untold").is_dir():
        write_model(world.storage / "untold" / "model", EASY)
    names = {"storage": world.storage, "empty": tmp_path, "data": world.tigers.root}
    more = ["--storage-path", str(tmp_path)] if "{empty}" in "".join(words) else []

    ended = world.call("promote", *(word.format(**names) for word in words), *more)

    assert ended.code == code
    assert ended.complained.startswith(f"error: {said.format(**names)}")
    assert len(ended.complained.splitlines()) == 3
