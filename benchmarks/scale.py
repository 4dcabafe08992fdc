"""The whole pipeline on a phantom of any size: speed, memory along the way, and counts.

    python benchmarks/scale.py [--smoke] [--shape 1280,1984,1984] [--memory-limit 2GB]
                               [--phantom DIR] [--json FILE]

Makes a phantom (or takes one made before), segments it in a process of its own with
limited workers, and samples the resident memory of the driver and of each worker while it
runs. Prints the stages, memory early and late, and the cells found against the truth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from cellseg3d_dist.phantoms import phantom


def watch(command: list[str]) -> tuple[float, list[tuple[float, int, int]]]:
    """Run a command; its seconds, and (time, driver's, largest worker's) bytes along the way."""
    began = time.monotonic()
    samples = []
    process = subprocess.Popen(command)
    driver = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            workers = [child.memory_info().rss for child in driver.children(recursive=True)]
            own = driver.memory_info().rss
            if own and workers:
                samples.append((time.monotonic() - began, own, max(workers)))
        except psutil.Error:
            pass
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"segment ended with exit code {process.returncode}")
    return time.monotonic() - began, samples


def report(out: Path, made: dict[str, Any], seconds: float, samples: list[Any]) -> dict[str, Any]:
    """Print and return the figures."""
    run = json.loads((out / "run.json").read_text())
    scores = json.loads((out / "scores.json").read_text())["matching"]
    z, y, x = made["spec"]["shape"]
    voxels = z * y * x
    tenth = max(1, len(samples) // 10)
    driver = [
        statistics.median(s[1] for s in part)
        for part in (samples[tenth : 2 * tenth], samples[-tenth:])
    ]
    peak = max(s[2] for s in samples)
    projected = max(stage["n_bytes"] for stage in run["plan"]["stages"])
    rate = voxels / seconds / 1e6
    block = run["plan"]["block_shape"]
    print(f"{z} x {y} x {x} voxels, {made['spec']['dtype']}, blocks of {block}")
    print(f"  {seconds:.0f} s, {rate:.1f} Mvoxel/s overall")
    for stage in run["stages"]:
        name, blocks, took = stage["stage"], stage["blocks"], max(stage["seconds"], 1e-9)
        speed = stage["voxels"] / took / 1e6
        print(f"  {name:<12} {blocks:6d} blocks {took:8.1f} s {speed:8.1f} Mvoxel/s")
    limit = run["plan"]["memory_limit"]
    print(
        f"  worker peak {peak / 2**30:.2f} GiB, projected {projected / 2**30:.2f}, "
        f"limit {limit / 2**30:.2f}"
    )
    print(
        f"  driver and scheduler {driver[0] / 2**30:.2f} GiB in the second tenth of the run, "
        f"{driver[1] / 2**30:.2f} in the last"
    )
    half = next(score for score in scores if score["threshold"] == 0.5)
    found, true = run["facts"]["cells"], made["cells"]
    print(f"  cells {found}, true {true} ({found / max(true, 1) - 1:+.1%})")
    print(f"  F1 at IoU 0.5 {half['f1']:.3f}; certificate {run['facts']['certificate']}")
    return {"seconds": seconds, "voxels": voxels, "worker_peak": peak, "projected": projected,
            "driver": driver, "cells": found, "true": true, "matching": scores,
            "stages": run["stages"]}  # fmt: skip


def main() -> None:
    """Make, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, for checks only")
    parser.add_argument("--shape", default="1280,1984,1984")
    parser.add_argument("--memory-limit", default="2GB")
    parser.add_argument("--phantom", type=Path, help="a phantom made before")
    parser.add_argument("--scratch", type=Path, help="where to work [temporary folder]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shape = "96,128,128" if options.smoke else options.shape
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = options.phantom or Path(scratch) / "phantom"
        if options.phantom is None:
            z, y, x = (int(n) for n in shape.split(","))
            phantom(folder, (z, y, x), seed=5)
        out = Path(scratch) / "run"
        command = [
            sys.executable, "-m", "cellseg3d_dist", "segment", str(folder / "image.ome.zarr"),
            str(out), "--workers", "2", "--memory-limit", options.memory_limit,
            "--model", "intensity", "--spot-sigma", "1.6um", "--outline-sigma", "1.5um",
            "--labels-true", str(folder / "labels.ome.zarr"),
        ]  # fmt: skip
        seconds, samples = watch(command)
        made = json.loads((folder / "phantom.json").read_text())
        figures = report(out, made, seconds, samples)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
