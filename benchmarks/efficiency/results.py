"""Results of the study: means, files, figure and table."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over subsets."""
    made = []
    for method, percent in dict.fromkeys((row["method"], row["percent"]) for row in rows):
        own = [row for row in rows if (row["method"], row["percent"]) == (method, percent)]
        line: dict[str, Any] = {"method": method, "percent": percent, "subsets": len(own)}
        for key in ("pieces", "cells_trained_on"):
            if key in own[0]:
                line[key] = statistics.fmean(row[key] for row in own)
        for key in ("dice", "f1_at_0.5", "mean_f1"):
            values = [row[key] for row in own]
            line[key] = statistics.fmean(values)
            line[f"{key}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        made.append(line)
    return made


def write(result: dict[str, Any], out: Path) -> None:
    """JSON, a row per training as CSV, and the figure."""
    (out / "label_efficiency.json").write_text(json.dumps(result, indent=1))
    flat = [
        {key: value for key, value in row.items() if key != "f1"}
        | {f"f1_at_{t}": value for t, value in row["f1"].items()}
        for row in result["rows"]
    ]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    with (out / "label_efficiency.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(flat)
    draw(result, out / "label_efficiency.png")


def draw(result: dict[str, Any], path: Path) -> None:
    """Two panels, each subset a dot: Dice and F1 at IoU 0.5 against the share of labels."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    supervised = [line for line in result["summary"] if line["method"] == "supervised"]
    without = [line for line in result["summary"] if line["method"] != "supervised"]
    for panel, (key, title) in zip(
        panels,
        (("dice", "Dice of the foreground"), ("f1_at_0.5", "F1 of cells at IoU 0.5")),
        strict=True,
    ):
        x = [line["percent"] for line in supervised]
        panel.errorbar(
            x, [line[key] for line in supervised], [line[f"{key}_sd"] or 0 for line in supervised],
            marker="o", capsize=3, color="C0", label="supervised, mean and SD",
        )  # fmt: skip
        dots = [row for row in result["rows"] if row["method"] == "supervised"]
        panel.plot([row["percent"] for row in dots], [row[key] for row in dots], ".",
                   color="C0", alpha=0.4)  # fmt: skip
        for line in without:
            panel.axhline(line[key], color="C1", linestyle="--",
                          label=f"{line['method']}, no labels")  # fmt: skip
        panel.set(xlabel="share of the labels, %", ylabel=title, xlim=(0, 100), ylim=(0, 1))
        panel.set_xticks(sorted(set(x)))
        panel.grid(alpha=0.3)
    panels[0].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=150)


def show(result: dict[str, Any]) -> None:
    """A table of the summary."""
    print(f"\n{'method':<16}{'labels %':>9}{'pieces':>8}{'cells':>8}{'subsets':>8}"
          f"{'Dice':>8}{'':8}{'F1, 0.5':>8}{'':8}{'mean F1':>8}")  # fmt: skip
    for line in result["summary"]:
        figures = "".join(
            f"{line[key]:>8.3f}" + (f" ± {sd:.3f}" if (sd := line[f"{key}_sd"]) else "").ljust(8)
            for key in ("dice", "f1_at_0.5", "mean_f1")
        )
        print(f"{line['method']:<16}{line['percent'] or '':>9}{line.get('pieces') or '':>8}"
              f"{line.get('cells_trained_on') or '':>8}{line['subsets']:>8}{figures}")  # fmt: skip
