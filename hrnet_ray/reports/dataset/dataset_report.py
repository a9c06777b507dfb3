"""Dataset report: a page, image grids and tables for inspecting a prepared dataset.

OUT/report.html             the page, without external resources
OUT/samples.png             16 training instances as they are stored
OUT/samples_augmented.png   the same instances as crops of the first epoch, with their heatmaps
OUT/issues.png              16 possible issues, if there are any
OUT/counts.csv              all counts
OUT/issues.csv              all possible issues
OUT/skipped.csv             all rows that `prepare` skipped
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
from hrnet_ray.utils.files import write_text_atomically


def write_dataset_report(
    manifest: DatasetManifest,
    out_dir: Path,
    *,
    pipeline_config: AugmentationPipelineConfig,
    sigma: float,
    quantize_center: bool = True,
    statistics: DatasetStatistics | None = None,
) -> Path:
    """Write the files above and return the path of the page.

    The augmented samples show the first epoch of a run with this `pipeline_config` and a heatmap
    sigma of `sigma` cells. `statistics` are computed if they are not given.

    Raises:
        DataError: a split has no rows, its counts disagree, or `out_dir` can't be written.
    """
    statistics = statistics or compute_statistics(manifest)
    samples = load_samples(manifest)
    grids = {
        "samples": draw_stored_samples(samples, manifest.skeleton),
        "samples_augmented": draw_augmented_samples(
            samples, pipeline_config, sigma=sigma, quantize_center=quantize_center
        ),
        "issues": draw_issues(manifest, statistics),
    }
    html = render_page(manifest, statistics, grids, pipeline_config, sigma)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        write_statistics_csv(statistics, out_dir / "counts.csv")
        write_issues_csv(statistics, out_dir / "issues.csv")
        write_skipped_csv(statistics, out_dir / "skipped.csv")
        path = out_dir / "report.html"
        write_text_atomically(path, html)
        (out_dir / "issues.png").unlink(missing_ok=True)  # from an earlier report
    except OSError as error:
        raise DataError(
            "the dataset report cannot be written",
            f"--out {out_dir}: {error.strerror}",
            "choose a folder with write permission",
        ) from error
    for name, tiles in grids.items():
        if tiles:
            codec.write_image(out_dir / f"{name}.png", to_grid(tiles))
    return path


def format_summary_line(statistics: DatasetStatistics, page_path: Path) -> str:
    """Summarize the possible issues and name the page, in one line."""
    kinds = statistics.count_issues()
    if not kinds and not statistics.skeleton_warnings:
        return f"no issues found; page: {page_path}"
    most_severe = [f"{kind}: {count:,}" for kind, count in list(kinds.items())[:2]]
    more = len(kinds) - len(most_severe) + len(statistics.skeleton_warnings)
    rest = [f"{more} more kind{'s' if more > 1 else ''} of issues"] if more else []
    return f"possible issues: {'; '.join([*most_severe, *rest])}; page: {page_path}"
