"""What people see in MLflow: a study in the pages of a real server, in a real browser.

The pages are MLflow's. That they show what was recorded, where `docs/compare.md` says, is ours.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from mlflow import MlflowClient

from hrnet_ray.cli.champion_comparison import format_markdown
from hrnet_ray.data.images import codec
from hrnet_ray.tracking import MlflowExperiment
from hrnet_ray.tracking.model_registry import (
    CHAMPION,
    ModelRegistry,
    RegisteredVersion,
    get_registered_model_name,
)
from tests.browser import Page, browsing
from tests.tracking.runs import begun, found, train

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

SCORES = {"#01 lr=0.0031 sigma=2.5": (0.125, 0.25), "#02 lr=0.00075 sigma=1.5": (0.375, 0.625)}
"""Of the epochs of each trial; halves of halves are printed as they are."""
PARAMS = [{"optim.lr": 0.0031, "heatmap.sigma": 2.5}, {"optim.lr": 0.00075, "heatmap.sigma": 1.5}]
STOPPED_AT = "44"
TRIALS = "tags.study = 'pond' and tags.kind = 'trial'"
GRID = "[...document.querySelectorAll('img')].filter((e) => e.src.includes('sample_predictions')).pop()"


@pytest.fixture(scope="module")
def study(server_port: int, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A study of two trials that the server was told of; returns the server's address."""
    uri, storage = f"http://127.0.0.1:{server_port}", tmp_path_factory.mktemp("runs")
    board = MlflowExperiment.open_for_dataset("pond", storage_dir=storage, tracking_uri=uri)
    parent = begun(board, storage / "pond", name="pond", tags={"kind": "study", "study": "pond"})
    trials = []
    for (name, scores), params in zip(SCORES.items(), PARAMS, strict=True):
        folder = storage / "pond" / "trials" / name[1:3]
        tags = {"kind": "trial", "study": "pond"}
        trials.append(begun(board, folder, name=name, params=params, parent_run=parent, tags=tags))
        for epoch, score in enumerate(scores):
            train(folder, epoch, score=score)
    trials[0].log_summary({}, tags={"asha.stopped_at": STOPPED_AT})
    for run in (*trials, parent):
        run.finish_run("FINISHED")
    return uri


@pytest.fixture(scope="module")
def page(chromium: str, study: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser that was told, on the first page, that no chat is looked for."""
    folder = tmp_path_factory.mktemp("browser")
    with browsing(chromium, folder, width=1400, height=900) as page:
        page.open(study)
        page.until_shown("hrnet/pond")
        page.click("Model training")
        page.click("Close")
        yield page


def experiment(uri: str) -> str:
    """The address of its page."""
    known = MlflowClient(uri).get_experiment_by_name("hrnet/pond")
    assert known
    return f"{uri}/#/experiments/{known.experiment_id}"


def best_first(uri: str) -> str:
    """The address of the trials in their order. Without one, MLflow folds them into the study."""
    order = quote("metrics.`val/OKS_AP`", safe="")
    return f"{experiment(uri)}/runs?searchFilter={quote(TRIALS)}&orderByKey={order}&orderByAsc=false&startTime=ALL"


def trials(uri: str) -> dict[str, str]:
    """The ids of the trials' runs by name."""
    return {str(run.info.run_name): run.info.run_id for run in found(uri, "pond")}


def test_the_runs_table_shows_the_trials_their_settings_and_the_best_first(page: Page, study: str, tmp_path: Path):
    page.open(best_first(study))
    page.until_shown("2 matching runs", *SCORES)
    page.click("Columns")
    searched = ("optim.lr", "heatmap.sigma", "val/OKS_AP", "asha.stopped_at")
    for column in ("Dataset", "Source", "Models", *searched):
        page.click(column, inside="[role=dialog]")
    page.key("Escape", 27)
    cells = "[...document.querySelectorAll('[role=gridcell]')].map((cell) => cell.innerText)"
    for value in ("0.0031", "0.00075", "2.5", "1.5", "0.25", "0.625", STOPPED_AT):
        page.until(f"{cells}.includes('{value}')")
    page.keep(tmp_path / "table.png")

    first, second = (page.text.index(name) for name in ("#02 lr", "#01 lr"))
    assert first < second


def test_a_runs_page_shows_its_last_figures_and_a_picture_for_each_epoch(page: Page, study: str, tmp_path: Path):
    run = f"{experiment(study)}/runs/{trials(study)['#02 lr=0.00075 sigma=1.5']}"
    page.open(run)
    page.until_shown("#02 lr=0.00075 sigma=1.5", "val/OKS_AP", "0.625", "Finished")
    page.keep(tmp_path / "run.png")

    page.open(f"{run}/model-metrics")
    page.click("Search metric charts")
    page.type("sample_predictions")
    page.until(f"{GRID}?.src.includes('step%2B0%2B') && {GRID}.naturalWidth == 36")
    slider = "document.querySelector('[role=slider]')"
    assert page.run(f"[{slider}.ariaValueMin, {slider}.ariaValueMax]") == ["0", "1"]
    page.run(f"{slider}.focus()")
    page.key("ArrowRight", 39)
    page.until(f"{GRID}?.src.includes('step%2B1%2B') && {GRID}.complete")
    page.run(f"{GRID}.scrollIntoView({{block: 'center'}})")
    page.keep(tmp_path / "image.png")

    shown = codec.read_image(tmp_path / "image.png").astype(int)
    otter = np.array((200, 40, 10))  # what was drawn after epoch 1
    assert (abs(shown - otter).max(-1) < 12).sum() > 400  # of its 36 x 24 pixels


def test_trials_side_by_side_are_lines_through_their_settings_to_their_scores(page: Page, study: str, tmp_path: Path):
    ids = quote(json.dumps([trials(study)[name] for name in SCORES]))
    number = experiment(study).rsplit("/", 1)[1]
    page.open(f"{study}/#/compare-runs?runs={ids}&experiments={quote(json.dumps([number]))}")
    page.until_shown("Comparing 2 Runs", "Parallel Coordinates Plot", *SCORES)
    page.until("document.querySelectorAll('.parcoords .y-axis').length == 3")
    page.keep(tmp_path / "compare.png")

    axes = page.run("[...document.querySelectorAll('.parcoords .axis-title')].map(e=>e.textContent)")
    assert sorted(axes)[:2] == ["heatmap.sigma", "optim.lr"]
    for value in ("0.0031", "0.00075", "2.5", "1.5"):
        assert f"\t{value}" in page.text


def test_a_chart_has_a_line_for_each_trial_and_a_point_for_each_epoch(page: Page, study: str, tmp_path: Path):
    page.open(best_first(study) + "&compareRunsMode=CHART")
    page.until_shown("2 matching runs")
    page.click("Search metric charts")
    page.type("val/OKS_AP$")
    page.until("document.querySelectorAll('.scatterlayer .point').length == 4")
    page.keep(tmp_path / "chart.png")

    drawn = page.run(
        "document.querySelector('.js-plotly-plot').data.map((line) => [Array.from(line.x), Array.from(line.y)])"
    )
    lines = {(tuple(steps), tuple(values)) for steps, values in drawn}  # plotly has each twice
    assert lines == {((0, 1), scores) for scores in SCORES.values()}


@pytest.fixture(scope="module")
def champion(study: str) -> RegisteredVersion:
    """The better trial's model, promoted, with the verdict on its page."""
    registry = ModelRegistry(study)
    run_id = trials(study)["#02 lr=0.00075 sigma=1.5"]
    number = registry.client.get_run(run_id).info.experiment_id
    made = registry.client.create_logged_model(number, name="hrnet", source_run_id=run_id)
    registry.client.finalize_logged_model(made.model_id, "READY")
    version = registry.register_version(
        get_registered_model_name("pond"),
        run_id=run_id,
        model_id=made.model_id,
        artifact_uri=made.artifact_location,
        tags={"OKS_AP": "0.6250"},
    )
    lines = [("OKS_AP", "0.6250", "0.2500"), ("difference", "+0.3750 (+0.2500 to +0.5000)", "")]
    verdict = ("decision", "promoted: better, the 95 % interval lies above 0", "")
    registry.annotate_version(version, {"promoted": "yes"}, format_markdown([*lines, verdict], "# The card"))
    registry.set_alias(CHAMPION, version)
    return version


def test_the_registry_shows_who_is_the_champion_and_why(
    page: Page, study: str, champion: RegisteredVersion, tmp_path: Path
):
    page.open(f"{study}/#/models/{champion.name}")
    page.until_shown(champion.name, "Version 1", "champion")
    page.keep(tmp_path / "model.png")

    page.open(f"{study}/#/models/{champion.name}/versions/{champion.version_number}")
    page.until_shown("promoted: better", "+0.3750 (+0.2500 to +0.5000)", "The card", "champion")
    page.until_shown("#02 lr=0.00075 sigma=1.5")  # the run that it came from
    page.keep(tmp_path / "version.png")
    cells = page.run("[...document.querySelectorAll('td')].map((cell) => cell.innerText.trim())")
    assert {"0.6250", "0.2500", "promoted: better, the 95 % interval lies above 0"} <= set(cells)
