import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrnet_ray.config import ExperimentConfig, flatten_config
from hrnet_ray.data.images import codec
from hrnet_ray.errors import DataError
from hrnet_ray.reports.study import setting_plots, study_report
from hrnet_ray.reports.study.pareto_front import select_pareto_optimal
from hrnet_ray.reports.study.trial_results import load_study
from tests.reports.html_pages import FRAME_PAGE, Elements, browse
from tests.reports.study.studies import HOSTILE, rate_and_sigma, with_latency, write_study

PLOTS = ["cost", "keypoints", "lr_sigma", "parallel", "rungs", "settings"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, failed={5: HOSTILE}, name=HOSTILE, keypoints=["nose", HOSTILE, "tail"])
    crops = folder / "trials" / "01" / "plots" / "sample_predictions"
    for epoch in range(1, 25):
        codec.write_image(crops / f"epoch_{epoch:04d}.jpg", np.full((40, 60, 3), 200, np.uint8))
    return study_report.write_study_report(folder, defaults=flatten_config(ExperimentConfig()))


@pytest.fixture(scope="module")
def shown(report: Path) -> Elements:
    return Elements(report.read_text(encoding="utf-8"))


def test_the_page_and_its_plots_are_written_to_the_study(report: Path):
    assert report.name == "report.html"
    assert sorted(path.stem for path in (report.parent / "plots").iterdir()) == PLOTS
    assert report.stat().st_size < 3_000_000


def test_the_summary_shows_best_trial_margin_and_cost(shown: Elements):
    for text in (
        "Trial #01 is the best, with optim.lr 0.000902, heatmap.sigma 1.81: OKS_AP 0.8108.",
        "second: #10 with 0.7866",
        "over the median trial: +0.4797, and +0.0322 after 3 epochs, which all trials completed",
        "2 completed",
        "9 stopped early",
        "1 failed",
        "90 epochs",
        "31 % of the 288 epochs without early stopping",
        "early stopping saved 177 epochs",
    ):
        assert text in shown.text


def test_the_page_shows_why_significance_is_not_computed(shown: Elements):
    assert "significance unknown, see below" in shown.text
    assert "Not computed: " in shown.text


def test_failed_trials_are_last_with_their_reason(shown: Elements):
    reason = r"failed: <script>alert(1)</script> & \x1b[31mred"

    assert reason in shown.text
    assert shown.text.index(reason) > shown.text.index("stopped early", shown.text.index("All tri"))


def test_every_name_is_escaped_and_there_are_no_scripts(shown: Elements):
    assert {"script", "iframe", "object", "form", "link", "a"}.isdisjoint(shown.tags)
    assert not [name for name in shown.attributes if name.startswith("on")]
    assert "\x1b" not in shown.text


def test_the_page_has_no_external_resources(report: Path, shown: Elements):
    starts = {link.split(",")[0] for link in shown.links}

    assert starts == {"data:image/png;base64", "data:image/jpeg;base64"}
    assert "default-src 'none'" in report.read_text(encoding="utf-8")


def test_the_command_trains_the_best_trial(shown: Elements):
    command = shown.text[shown.text.index("hrnet-ray train") :]

    assert "--heatmap.sigma 1.809360141291611 \\\n" in command
    assert "--optim.lr 0.0009024902754642899 \\\n" in command
    assert "--optim.epochs 24" in command
    assert "--model.width" not in command


@pytest.mark.parametrize(
    ("options", "plots", "text"),
    [
        (
            {"trials": 1, "rungs": ()},
            ["cost", "rungs"],
            "Only one trial has a score, so there is no comparison.",
        ),
        (
            {"trials": 3, "rungs": (), "failed": {1: "a", 3: "b"}},
            ["cost", "parallel", "rungs"],
            "Fewer than two trials have keypoint scores.",
        ),
        (
            {"draw": lambda rng: {"optim.optimizer": str(rng.choice(["adam", "adamw"]))}},
            ["cost", "keypoints", "parallel", "rungs", "settings"],
            "Columns sorted by score, best first.",
        ),
        (
            {"draw": lambda rng: {"optim.lr": float(rng.uniform(1e-4, 1e-3))}, "rungs": ()},
            ["cost", "keypoints", "parallel", "rungs", "settings"],
            "No trial was stopped early.",
        ),
    ],
    ids=["one trial", "one of three", "category", "no sigma"],
)
def test_a_plot_without_content_is_replaced_by_a_sentence(tmp_path: Path, options: dict, plots: list[str], text: str):
    write_study(tmp_path, keypoints=["nose", "tail"], epochs=10, **{"trials": 6, **options})

    page = study_report.write_study_report(tmp_path)

    assert sorted(path.stem for path in (tmp_path / "plots").iterdir()) == plots
    shown = Elements(page.read_text(encoding="utf-8"))
    assert text in shown.text
    assert shown.tags.count("img") == len(plots)


def test_a_study_that_optimized_latency_shows_score_against_latency(tmp_path: Path):
    def rate_and_width(rng: np.random.Generator) -> dict[str, Any]:
        return rate_and_sigma(rng) | {"model.width": int(rng.choice([18, 32, 48]))}

    study = with_latency(write_study(tmp_path, trials=6, draw=rate_and_width, keypoints=["nose"]))

    page = study_report.write_study_report(study)

    shown = Elements(page.read_text(encoding="utf-8"))
    assert "Score against latency" in shown.text
    assert "latency_ms" in shown.text
    front = [trial.name for _, trial in select_pareto_optimal(load_study(study))]
    assert load_study(study).best_trial.name == front[-1]  # the best one is the slowest of these
    line = codec.read_image(tmp_path / "plots" / "speed.png") == (0x00, 0x72, 0xB2)
    assert line.all(-1).sum() > 100


def test_a_plot_of_an_earlier_report_is_deleted(tmp_path: Path):
    write_study(tmp_path / "study", trials=1, rungs=())
    old = tmp_path / "study" / "plots" / "keypoints.png"
    codec.write_image(old, np.zeros((4, 4, 3), np.uint8))

    study_report.write_study_report(tmp_path / "study")

    assert not old.exists()


def test_a_folder_without_a_study_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="the list of trials cannot be read"):
        study_report.write_study_report(tmp_path)


@pytest.mark.browser
def test_a_browser_shows_the_page_without_console_messages(chromium: str, report: Path, tmp_path: Path):
    shot = tmp_path / "page.png"
    flags = ("--window-size=1400,2600", f"--screenshot={shot}", "--dump-dom")

    done = browse(chromium, report.as_uri(), tmp_path, *flags)

    assert "CONSOLE" not in done.stderr
    assert "Trial #01 is the best" in Elements(done.stdout).text
    page = codec.read_image(shot).astype(int)
    best = np.array(list(bytes.fromhex(setting_plots.BEST_COLOR[1:])))
    assert (abs(page - best).max(-1) < 10).sum() > 500  # the plots are there


@pytest.mark.browser
@pytest.mark.parametrize("width", [1400, 375])
def test_all_images_load_and_nothing_is_wider_than_the_screen(chromium: str, report: Path, tmp_path: Path, width: int):
    text = report.read_text(encoding="utf-8")
    # Our own page measures the report in a frame, without its policy that forbids scripts.
    without_policy = re.sub(r"<meta http-equiv[^>]*>", "", text)
    page = json.dumps(without_policy).replace("</", "<\\/")
    measuring_page = tmp_path / "measure.html"
    measuring_page.write_text(FRAME_PAGE.format(width=width, page=page))

    done = browse(chromium, measuring_page.as_uri(), tmp_path, "--dump-dom")

    match = re.search(r'<pre id="result">(.*?)</pre>', done.stdout)
    assert match
    result = json.loads(match[1])
    assert (result["images"], result["loaded"], result["wide"]) == (7, 7, 0)
