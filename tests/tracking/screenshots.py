"""Takes the images of docs/compare.md anew: a study of 8 trials on drawn tigers, in MLflow.

    python -m tests.tracking.screenshots docs/images       # about 6 minutes on two cores

Look at each of them afterwards. It needs Chromium.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from hrnet_ray.cli.promote import EXIT_CODE_NOT_PROMOTED
from tests.browser import Page, browsing
from tests.tracking.serving import serving

PREPARE = "prepare synthetic --kind tigers --num-train 200 --num-val 48 --out data/tigers --max-image-size 128"
NET = "--data.input-hw 64 96 --model.width 16 --model.modules 1 1 1 --model.blocks 1 --model.stem 32"
OPTIM = "--optim.epochs 10 --optim.milestones 7 9 --optim.batch-size 16"
SEARCH = "--search.num-trials 8 --search.grace-period 2 --search.reduction-factor 2"
SPACE = "--space optim.lr=log(3e-4,1e-2) heatmap.sigma=uniform(0.7,3)"
TUNE = f"tune --name lr-sigma --data.root data/tigers {NET} {OPTIM} {SEARCH} {SPACE}"
STUDY = "runs/tigers/lr-sigma"
TRIALS = "tags.study = 'lr-sigma' and tags.kind = 'trial'"
MAIN = "val/best.OKS_AP"
COLUMNS = ("heatmap.sigma", "optim.lr", MAIN, "asha.stopped_at")
HIGH_PX = 900  # of the window: MLflow's lists need the room
SETTLED_S = 2.0  # MLflow moves things after it has drawn them, and says nowhere when it is done


def main(out: Path) -> None:
    """Search, promote, take images."""
    chromium = shutil.which("chromium")
    if not chromium:
        sys.exit("no chromium on PATH")
    with tempfile.TemporaryDirectory() as home:
        (served := Path(home) / "mlflow").mkdir()
        with serving(served) as port:
            uri = f"http://127.0.0.1:{port}"
            trained(Path(home), uri)
            for take, name, size in (
                (table, "table", (1400, 560)),
                (charts, "charts", (1500, 720)),
                (compare, "compare", (1400, 820)),
                (image, "image", (1400, 900)),
                (version, "version", (1400, 760)),
            ):
                folder = Path(tempfile.mkdtemp(dir=home))
                with browsing(chromium, folder, width=size[0], height=HIGH_PX) as page:
                    greeted(page, uri)
                    take(page, uri)
                    time.sleep(SETTLED_S)
                    page.keep(out / f"mlflow_{name}.png")
                slim(out / f"mlflow_{name}.png", rows=size[1])
                print(f"{out}/mlflow_{name}.png", flush=True)


def trained(home: Path, uri: str) -> None:
    """The study, and two promotions: the second one has a champion to beat."""

    def ours(line: str, *more: str) -> None:
        words = [sys.executable, "-m", "hrnet_ray.cli", *line.split(), *more]
        here = os.environ | {"PYTHONPATH": os.getcwd()}
        ended = subprocess.run(words, cwd=home, env=here)
        if ended.returncode not in (0, EXIT_CODE_NOT_PROMOTED):
            sys.exit(f"{line}: exit code {ended.returncode}")

    ours(PREPARE)
    ours(TUNE, "--cluster.tracking-uri", uri)
    second = json.loads((home / STUDY / "summary.json").read_text())["trials"][1]["folder"]
    ours(f"promote {STUDY}/trials/{second} --tracking-uri {uri}")
    ours(f"promote {STUDY} --tracking-uri {uri}")


def slim(path: Path, *, rows: int) -> None:
    """The upper part; 256 colours are enough, and a quarter of the bytes."""
    whole = Image.open(path).convert("RGB")
    whole.crop((0, 0, whole.width, rows)).quantize(256).save(path, optimize=True)


def greeted(page: Page, uri: str) -> None:
    """Past MLflow's first page, as docs/compare.md says."""
    page.open(uri)
    page.until_shown("hrnet/tigers")
    page.click("Model training")
    page.click("Close")


def best_first(uri: str) -> list[Run]:
    """The trials' runs."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("hrnet/tigers")
    assert found
    return client.search_runs([found.experiment_id], TRIALS, order_by=[f"metrics.`{MAIN}` DESC"])


def place(uri: str) -> str:
    """The address of the experiment's page."""
    return f"{uri}/#/experiments/{best_first(uri)[0].info.experiment_id}"


def runs(uri: str, more: str = "") -> str:
    """The address of the trials, the best first."""
    order = quote(f"metrics.`{MAIN}`", safe="")
    query = f"searchFilter={quote(TRIALS)}&orderByKey={order}&orderByAsc=false&startTime=ALL"
    return f"{place(uri)}/runs?{query}{more}"


def table(page: Page, uri: str) -> None:
    """The trials with the columns that the page names."""
    page.open(runs(uri))
    page.until_shown("8 matching runs", str(best_first(uri)[0].info.run_name))
    page.click("Columns")
    for column in ("Dataset", "Source", "Models", *COLUMNS):
        page.click(column, inside="[role=dialog]")
        time.sleep(SETTLED_S / 4)
    page.key("Escape", 27)
    page.until_shown("8 matching runs", *COLUMNS, "Sort: val/best.OKS_AP")


def charts(page: Page, uri: str) -> None:
    """Score and two keypoints over epochs."""
    page.open(runs(uri, "&compareRunsMode=CHART"))
    page.until_shown("8 matching runs")
    page.click("Search metric charts")
    page.type("val/(OKS_AP|OKS.nose|OKS.left_back_paw)$")
    page.until("document.querySelectorAll('.js-plotly-plot .scatterlayer').length == 3")
    page.run("document.head.insertAdjacentHTML('beforeend','<style>.modebar{display:none}</style>')")


def compare(page: Page, uri: str) -> None:
    """A line for each trial through its settings to its score."""
    trials = best_first(uri)
    ids = quote(json.dumps([trial.info.run_id for trial in trials]))
    boards = quote(json.dumps([trials[0].info.experiment_id]))
    page.open(f"{uri}/#/compare-runs?runs={ids}&experiments={boards}")
    page.until_shown("Parallel Coordinates Plot", "train/loss")
    time.sleep(SETTLED_S)
    page.press(309, 293)  # takes train/loss out of Metrics,
    page.press(400, 293)  # and asks for another
    page.type("best")
    time.sleep(SETTLED_S / 2)
    page.key("Enter", 13)
    page.press(800, 660)  # closes the list
    page.until(f"document.querySelector('.parcoords').textContent.includes('{MAIN}')")


def image(page: Page, uri: str) -> None:
    """The 16 crops after the last epoch of the best trial, in full."""
    page.open(f"{place(uri)}/runs/{best_first(uri)[0].info.run_id}/model-metrics")
    page.click("Search metric charts")
    page.type("sample_predictions")
    page.until_shown("val/sample_predictions")
    time.sleep(SETTLED_S)
    page.press(535, 275)  # the button for full screen
    time.sleep(SETTLED_S)
    page.press(1200, 803)  # the last step of the slider
    time.sleep(SETTLED_S)
    crops = "[...document.querySelectorAll('img')].filter((e) => e.naturalWidth > 1000).pop()"
    page.run(f"{crops}.scrollIntoView({{block: 'center'}})")


def version(page: Page, uri: str) -> None:
    """The champion's page in the registry."""
    champion = MlflowClient(uri).get_model_version_by_alias("hrnet-tigers", "champion")
    page.open(f"{uri}/#/models/hrnet-tigers/versions/{champion.version}")
    page.until_shown("decision")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
