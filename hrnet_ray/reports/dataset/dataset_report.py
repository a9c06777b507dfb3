"""The data report: look at the data before a model does.

OUT/report.html              the page, complete in itself
OUT/samples.png             16 training instances as they are stored
OUT/samples_augmented.png   the same ones as the model meets them in its first epoch, with heatmaps
OUT/issues.png            16 things that deserve a look, if there are any
OUT/counts.csv              all figures
OUT/issues.csv            everything that deserves a look
OUT/skipped.csv             everything that was left out
"""

from pathlib import Path

from hrnet_ray.data.batch import AugmentationPipelineConfig
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.errors import DataError
from hrnet_ray.reports.dataset.augmented_samples import draw_augmented_samples
from hrnet_ray.reports.dataset.csv_tables import (
    write_issues_csv,
    write_skipped_csv,
    write_statistics_csv,
)
from hrnet_ray.reports.dataset.dataset_page import render_page
from hrnet_ray.reports.dataset.sample_grids import (
    draw_issues,
    draw_stored_samples,
    load_samples,
    to_grid,
)
from hrnet_ray.reports.dataset.statistics import DatasetStatistics, compute_statistics


def write_dataset_report(
    manifest: DatasetManifest,
    out_dir: Path,
    *,
    pipeline_config: AugmentationPipelineConfig,
    sigma: float,
    quantize_center: bool = True,
    statistics: DatasetStatistics | None = None,
) -> Path:
    """Write the files above and return the page's path.

    The second sheet shows epoch 0 of a run with this `recipe` and heatmaps of this `sigma`.
    `counts` is for a caller who has called `count` already.

    Raises:
        DataError: a split without rows, files that do not add up, or `out` cannot be written.
    """
    statistics = statistics or compute_statistics(manifest)
    samples = load_samples(manifest)
    sheets = {
        "samples": draw_stored_samples(samples, manifest.skeleton),
        "samples_augmented": draw_augmented_samples(
            samples, pipeline_config, sigma=sigma, quantize_center=quantize_center
        ),
        "issues": draw_issues(manifest, statistics),
    }
    html = render_page(manifest, statistics, sheets, pipeline_config, sigma)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        write_statistics_csv(statistics, out_dir / "counts.csv")
        write_issues_csv(statistics, out_dir / "issues.csv")
        write_skipped_csv(statistics, out_dir / "skipped.csv")
        path = out_dir / "report.html"
        path.write_text(html, encoding="utf-8")
        (out_dir / "issues.png").unlink(missing_ok=True)  # of an earlier time
    except OSError as error:
        raise DataError(
            "a report that cannot be written",
            f"--out {out_dir}: {error.strerror}",
            "give a folder that can be written",
        ) from error
    for name, tiles in sheets.items():
        if tiles:
            codec.write_image(out_dir / f"{name}.png", to_grid(tiles))
    return path


def format_summary_line(statistics: DatasetStatistics, page_path: Path) -> str:
    """One line: how much there is to look at, and where."""
    kinds = statistics.count_issues()
    if not kinds and not statistics.skeleton_warnings:
        return f"nothing unusual; page: {page_path}"
    gravest = [f"{kind}: {number:,}" for kind, number in list(kinds.items())[:2]]
    more = len(kinds) - len(gravest) + len(statistics.skeleton_warnings)
    rest = [f"{more} more kind{'s' if more > 1 else ''} of things"] if more else []
    return f"worth a look: {'; '.join([*gravest, *rest])}; page: {page_path}"
