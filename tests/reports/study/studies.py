"""Study folders with synthetic scores, as a search writes them."""

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.config import ExperimentConfig, flatten_config, with_overrides
from hrnet_ray.skeletons import ATRW

HOSTILE = "<script>alert(1)</script> & \x1b[31mred"
START_MS = 1_760_000_000_000

Sampler = Callable[[np.random.Generator], dict[str, Any]]


def rate_and_sigma(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "optim.lr": float(10 ** rng.uniform(-4, -2.5)),
        "heatmap.sigma": float(rng.uniform(1.0, 4.0)),
    }


def write_study(
    folder: Path,
    *,
    trials: int = 12,
    draw: Sampler = rate_and_sigma,
    epochs: int = 24,
    rungs: Sequence[int] = (3, 9),
    failed: Mapping[int, str] | None = None,
    keypoints: Sequence[str] = ATRW.keypoints,
    metric: str = "OKS_AP",
    name: str = "synthetic",
    seed: int = 0,
) -> Path:
    """Write a study whose best trials have a learning rate near 6e-4 and a heatmap sigma near 2.

    At each rung, two thirds of the trials that reach it are stopped; `failed` trials (number from
    1, and reason) have a NaN loss after two epochs.
    """
    rng = np.random.default_rng(seed)
    sampled = [draw(rng) for _ in range(trials)]
    failed = failed or {}
    active = [number for number in range(trials) if number + 1 not in failed]
    lengths = {number: 3 for number in range(trials) if number + 1 in failed}
    for rung in rungs:
        active.sort(key=lambda number: -_compute_score(sampled[number], rung))
        keep = max(1, -(-len(active) // 3))
        lengths |= {number: rung for number in active[keep:]}
        active = active[:keep]
    lengths |= {number: epochs for number in active}
    lines = []
    for number, settings in enumerate(sampled):
        entries = _make_epoch_records(settings, lengths[number], number, keypoints, metric, rng, number + 1 in failed)
        lines.append(_write_trial(folder, number, settings, entries, epochs, metric, failed, name))
    lines.sort(key=lambda line: -line["score"] if math.isfinite(line["score"]) else math.inf)
    with (folder / "trials.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(lines[0]))
        table.writeheader()
        table.writerows(lines)
    summary = {"name": name, "metric": metric, "trials": lines}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def _compute_score(sampled: Mapping[str, Any], epoch: int) -> float:
    """Score after `epoch` epochs."""
    lr, sigma = sampled.get("optim.lr", 6e-4), sampled.get("heatmap.sigma", 2.0)
    height = 0.82 - 0.22 * math.log10(lr / 6e-4) ** 2 - 0.05 * (sigma - 2) ** 2
    height += 0.02 * (sampled.get("optim.optimizer") == "adamw")
    height += 0.001 * (sampled.get("model.width", 32) - 32)
    return max(0.0, height * (1 - math.exp(-epoch / 5)))


def _make_epoch_records(
    sampled: Mapping[str, Any],
    length: int,
    number: int,
    keypoints: Sequence[str],
    metric: str,
    rng: np.random.Generator,
    diverges: bool,
) -> list[dict[str, Any]]:
    kind, entries, best = metric.split("_")[0], [], 0.0
    ends_ms = START_MS + 100_000 * (number // 2)
    sigma = sampled.get("heatmap.sigma", 2.0)
    for epoch in range(length):
        score = _compute_score(sampled, epoch + 1) + float(rng.normal(0, 0.006))
        best = max(best, score)
        seconds = 20.0 + float(rng.uniform(0, 4))
        ends_ms += int(seconds * 1000)
        is_nan = diverges and epoch == length - 1
        each = {
            f"val/{kind}.{point}": min(1.0, score + 0.1 + 0.05 * math.sin(3 * k) * (sigma - 2.2))
            for k, point in enumerate(keypoints)
        }
        entries.append(
            {
                "epoch": epoch + 1,
                "train/loss": math.nan if is_nan else 2e-3 * math.exp(-epoch / 8),
                "perf/epoch_s": seconds,
                "at_ms": ends_ms,
                **({} if is_nan else {f"val/{metric}": score, f"val/best.{metric}": best, **each}),
            }
        )
    return entries


def _write_trial(
    folder: Path,
    number: int,
    sampled: dict[str, Any],
    entries: list[dict[str, Any]],
    epochs: int,
    metric: str,
    failed: Mapping[int, str],
    name: str,
) -> dict[str, Any]:
    label = f"{number + 1:02d}"
    trial = folder / "trials" / label
    trial.mkdir(parents=True)
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in sampled.items()}
    experiment = with_overrides(ExperimentConfig(), {"optim.epochs": epochs, "name": f"study/trials/{label}", **plain})
    settings = flatten_config(experiment) | {"sampled_params": sampled}
    (trial / "resolved_config.json").write_text(json.dumps(settings), encoding="utf-8")
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (trial / "metrics.jsonl").write_text(lines, encoding="utf-8")
    if number + 1 in failed:
        outcome = {"metric": "", "score": math.nan, "best_epoch": 0, "epochs": 0}
        return {"folder": label, **sampled, **outcome, "error": failed[number + 1]}
    best = max(entries, key=lambda entry: entry[f"val/{metric}"])
    outcome = {"metric": metric, "score": best[f"val/{metric}"], "best_epoch": best["epoch"]}
    return {"folder": label, **sampled, **outcome, "epochs": len(entries), "error": ""}


def with_latency(study: Path) -> Path:
    """Add latencies, as if the study had optimized latency too: wider models are slower."""
    with (study / "trials.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    for number, line in enumerate(lines):
        line["latency_ms"] = f"{0.4 * float(line.get('model.width', 32)) + 0.37 * (number % 3):.3f}"
    for line in lines:
        own = float(line["score"]), -float(line["latency_ms"])
        others = [(float(o["score"]), -float(o["latency_ms"])) for o in lines if o is not line]
        beaten = any(a >= own[0] and b >= own[1] and (a, b) != own for a, b in others)
        line["pareto_optimal"] = str(math.isfinite(own[0]) and not beaten)
    with (study / "trials.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(lines[0]))
        table.writeheader()
        table.writerows(lines)
    return study
