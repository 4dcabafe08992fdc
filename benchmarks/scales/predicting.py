"""The model of cost, tried: fitted to small runs, then held against one of 8 times the size."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from cellseg3d_dist.costs import Cost, Range
from cellseg3d_dist.segmentation import estimate
from scales.measuring import SIGMAS, How, Triple, made_phantom, measure
from scales.printing import print_measured

#: Seconds that are not worth a row.
SMALL = 0.5


def predicted_and_measured(
    scratch: Path, shape: Triple, how: How, made: Path | None, *, two: bool
) -> dict[str, Any]:
    """Measure at an eighth (and a sixty-fourth) of the voxels, predict, measure, print.

    Nothing is known of the large run when it is predicted: its phantom is not even made.
    """
    runs, smaller = [], []
    for halvings in (2, 1) if two else (1,):
        z, y, x = (max(1, n >> halvings) for n in shape)
        folder = scratch / f"phantom-{1 << (3 * halvings)}"
        made_phantom(folder, (z, y, x), how)
        runs.append(scratch / f"run-{1 << (3 * halvings)}")
        smaller.append(measure(folder, runs[-1], how))
        print_measured(smaller[-1])
    cost = _cost(runs, shape, how)
    print("\n".join(cost.lines()))
    folder = scratch / "phantom-1" if made is None else made
    made_phantom(folder, shape, how)
    measured = measure(folder, scratch / "run-1", how)
    print_measured(measured)
    compared = _compared(cost, measured)
    _print(compared, prod(shape))
    return {"fitted": smaller, "cost": cost.to_dict(), "measured": measured, "compared": compared}


def _cost(runs: list[Path], shape: Triple, how: How) -> Cost:
    options: dict[str, Any] = {"model": how.model}
    given = [*(SIGMAS if how.model == "intensity" else ()), *how.more]
    options |= {
        name.removeprefix("--").replace("-", "_"): value
        for name, value in zip(given[::2], given[1::2], strict=True)
    }
    if how.block_shape:
        options["block_shape"] = how.block_shape
    found = estimate(
        None,
        runs,
        shape=shape,
        voxel_size=(1, 1, 1),
        workers=how.workers,
        memory_limit=how.memory_limit,
        **options,
    )
    assert found.cost is not None
    return found.cost


def _compared(cost: Cost, measured: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Predicted and measured, by what was predicted."""
    program, memory = measured["program"], measured["memory"]
    disk = float(sum(part["bytes"] for part in program["disk"].values()))
    pairs: dict[str, tuple[Range, float]] = {
        # without the start of python and the end of its processes, some seconds of any run
        "seconds": (cost.hours.times(3600), program["seconds"]),
        "worker bytes": (cost.worker_bytes, program["worker_peak"]),
        "driver bytes": (cost.driver_bytes, max(memory["driver_peak"], program["driver_peak_rss"])),
        "disk, at most, bytes": (cost.disk_bytes, disk),
        "disk, kept, bytes": (cost.kept_bytes, measured["written"]["bytes"]),
        "cells": (Range(*[cost.cells] * 3), measured["scores"]["n_pred"]),
    }
    found = {
        name: {**vars(predicted), "measured": float(number)}
        for name, (predicted, number) in pairs.items()
    }
    stages: dict[str, float] = {}
    for stage in program["stages"]:
        name = stage["stage"].rstrip("0123456789").rstrip("-")
        stages[name] = stages.get(name, 0.0) + stage["seconds"]
    for one in cost.stages:
        wanted = {"low": one.seconds, "expected": one.seconds, "high": one.seconds}
        found[f"seconds of {one.stage}"] = {**wanted, "measured": stages.get(one.stage, 0.0)}
    for step, seconds in cost.steps.items():
        took = float(program["steps"].get(step, 0.0))
        found[f"seconds of {step} (driver)"] = {
            "low": seconds, "expected": seconds, "high": seconds, "measured": took,
        }  # fmt: skip
    return found


def _print(compared: dict[str, dict[str, float]], voxels: int) -> None:
    print(f"predicted and measured, {voxels:,} voxels")
    print(f"  {'':<28} {'predicted':>12} {'from':>12} {'to':>12} {'measured':>12} {'off by':>8}")
    for name, one in compared.items():
        measured = one["measured"]
        if max(one["expected"], measured) < SMALL:
            continue
        off = f"{one['expected'] / measured - 1:+.0%}" if measured else "-"
        texts = (_number(one[key]) for key in ("expected", "low", "high", "measured"))
        cells = " ".join(f"{text:>12}" for text in texts)
        print(f"  {name:<28} {cells} {off:>8}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"
