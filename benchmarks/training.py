"""A step of SoftNCuts: all pairs, class centroids, and a plain loop over offsets.

    python benchmarks/training.py [--smoke] [--side 64] [--radius 2] [--json FILE]

One step is the loss of a batch of two patches with two classes, and its gradient. Three ways:

- all pairs, ours: half of the offsets, gradient by hand;
- all pairs, plain: every offset in a loop, gradient by autograd;
- class centroids: the cheaper form of the loss, gradient by autograd.

Seconds are the median of some steps on one thread. Memory is the growth of the peak of the
process, each way in a process of its own. Both ways over all pairs must agree.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cellseg3d_dist.training.softncuts import centroid_ncuts, pairwise_ncuts


def plain_ncuts(p: Tensor, image: Tensor, *, radius: float = 2.0) -> Tensor:
    """The same as :func:`pairwise_ncuts`, written down as it reads."""
    degree = torch.zeros_like(image)
    sums = torch.zeros_like(p)
    reach = int(radius)
    for offset in itertools.product(range(-reach, reach + 1), repeat=3):
        squared = sum(d * d for d in offset)
        if squared >= radius**2:
            continue
        sides = [(slice(max(-d, 0), n - max(d, 0)), slice(max(d, 0), n + min(d, 0)))
                 for d, n in zip(offset, image.shape[2:], strict=True)]  # fmt: skip
        here = (..., *(side[0] for side in sides))
        there = (..., *(side[1] for side in sides))
        weight = torch.exp(-((image[here] - image[there]) ** 2) - squared / 4.0)
        padding = [n for side, full in zip(reversed(sides), reversed(image.shape[2:]), strict=True)
                   for n in (side[0].start, full - side[0].stop)]  # fmt: skip
        degree = degree + torch.nn.functional.pad(weight, padding)
        sums = sums + torch.nn.functional.pad(weight * p[there], padding)
    space = (2, 3, 4)
    return p.shape[1] - ((p * sums).sum(space) / (p * degree).sum(space)).sum(1).mean()


WAYS: dict[str, Callable[..., Tensor]] = {
    "all pairs, ours": pairwise_ncuts,
    "all pairs, plain loop": plain_ncuts,
    "class centroids": centroid_ncuts,
}


def measure(way: str, side: int, radius: float, repeats: int) -> dict[str, float]:
    """Seconds of a step, MB that the peak of this process grows, and the loss."""
    torch.set_num_threads(1)
    made = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, side, side, side, generator=made).requires_grad_()
    image = 3 * torch.rand(2, 1, side, side, side, generator=made)

    def step() -> float:
        logits.grad = None
        began = time.perf_counter()
        WAYS[way](logits.softmax(1), image, radius=radius).backward()
        return time.perf_counter() - began

    # what torch needs for itself is not what the loss needs
    small = torch.rand(1, 2, 8, 8, 8, requires_grad=True)
    WAYS[way](small.softmax(1), torch.rand(1, 1, 8, 8, 8), radius=radius).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seconds = statistics.median(step() for _ in range(repeats))
    loss = WAYS[way](logits.detach().softmax(1), image, radius=radius).item()
    return {"seconds": seconds, "megabytes": grown / 1e3, "loss": loss}


def in_own_process(way: str, options: argparse.Namespace) -> dict[str, float]:
    """:func:`measure` in a new process, so that peaks do not mix."""
    given = [f"--side={options.side}", f"--radius={options.radius}"]
    command = [sys.executable, __file__, *given, f"--repeats={options.repeats}", f"--way={way}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def table_of(rows: dict[str, dict[str, float]], options: argparse.Namespace) -> Table:
    """The rows, with seconds and memory as multiples of ours."""
    ours = rows["all pairs, ours"]
    title = f"SoftNCuts forward and backward, 2 x {options.side}^3, radius {options.radius:g}"
    table = Table(title=title)
    table.add_column("form")
    for heading in ("s / step", "x ours", "peak MB", "x ours", "loss"):
        table.add_column(heading, justify="right")
    for way, row in rows.items():
        table.add_row(
            way, f"{row['seconds']:.3f}", f"{row['seconds'] / ours['seconds']:.1f}",
            f"{row['megabytes']:.0f}", f"{row['megabytes'] / max(ours['megabytes'], 1e-3):.1f}",
            f"{row['loss']:.5f}",
        )  # fmt: skip
    return table


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, for checks only")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--radius", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        found: Any = measure(options.way, options.side, options.radius, options.repeats)
        print(json.dumps(found))
        return
    if options.smoke:
        options.side, options.repeats = 24, 1
    rows = {way: in_own_process(way, options) for way in WAYS}
    Console(width=90).print(table_of(rows, options))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))
    difference = abs(rows["all pairs, ours"]["loss"] - rows["all pairs, plain loop"]["loss"])
    if difference > 1e-4:
        raise SystemExit(f"both ways over all pairs differ by {difference:.2g}")


if __name__ == "__main__":
    main()
