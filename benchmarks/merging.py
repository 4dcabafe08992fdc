"""The merge: its speed and memory at 10^8 fragments, and what merges do to cells at seams.

    python benchmarks/merging.py [scale] [files] [quality] [--smoke] [--side 80]
                                 [--shape 192,192,192] [--scratch DIR] [--json FILE]

`scale` merges fragments of side^3 blocks, by name and by contact, in one process (seconds of
CPU time by phase, peak resident memory); `files` does it from a record file of each block, in
one process and in the groups that workers take. `quality` compares merges on dense touching
nuclei with truth by construction, at seams of blocks and away from them. Peers that are not
installed are left out or stood in for, and said to be.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from merges.quality import (
    HALO,
    OUTLINE,
    SPOT,
    Blocks,
    Result,
    by_cellpose,
    by_dask_image,
    in_one_piece,
    judged,
    numbered_by_place,
    ours,
)
from merges.scale import records, scale

from cellseg3d_dist.grid import Region
from cellseg3d_dist.phantoms.rendering import render
from cellseg3d_dist.phantoms.spec import PhantomSpec
from cellseg3d_dist.volumes import create_image

#: Packed nuclei that touch, 11 voxels wide, and the grey level that parts them from tissue.
DENSE = {"crowding": 1.0, "extent": 3.0, "spacing": 10.0, "diameter": 11.0}
THRESHOLD = 100.0


def run_scale(scratch: Path, side: int) -> list[dict[str, Any]]:
    """Measure both rules and print a table."""
    rows = [scale(scratch / rule, side, rule) for rule in ("name", "contact")]
    phases = list(dict.fromkeys(phase for row in rows for phase in row["phases"]))
    print(f"merge of fragments of {rows[0]['blocks']:,} blocks in one process, one core")
    heads = ["fragments", "cells", "s", "CPU s", *phases, "peak GB"]
    print("  by      " + " ".join(f"{head:>14}" for head in heads))
    for row in rows:
        cells = [f"{row['fragments']:,}", f"{row['cells']:,}"]
        cells += [f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}"]
        cells += [f"{row['phases'].get(phase, 0.0):.1f}" for phase in phases]
        cells.append(f"{row['peak'] / 1e9:.2f}")
        print(f"  {row['rule']:<8}" + " ".join(f"{cell:>14}" for cell in cells))
    return rows


def run_files(scratch: Path, side: int) -> list[dict[str, Any]]:
    """Measure the merge of record files and print a table."""
    rows = records(scratch / "records", side)
    one = rows[0]
    print(f"merge by name of {one['fragments']:,} fragments from {one['blocks']:,} record files, "
          f"{one['bytes'] / 1e9:.2f} GB")  # fmt: skip
    for row in rows:
        how = "one process" if row["where"] == "one" else f"{row['groups']} groups, one worker"
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in row["stages"].items())
        same = "" if row is one else f", same bytes: {row['digest'] == one['digest']}"
        print(f"  {how:<24}{row['seconds']:9.1f} s {row['cpu_seconds']:9.1f} s CPU "
              f"{row['peak'] / 1e9:6.2f} GB peak{same}")  # fmt: skip
        if stages:
            print(f"    {stages}")
    return rows


def run_quality(scratch: Path, shape: tuple[int, int, int], block: int) -> list[dict[str, Any]]:
    """Make nuclei, merge in every way, and print a table."""
    spec = PhantomSpec(shape, seed=3, **DENSE)
    image, true = render(spec, Region.whole(shape))
    path = scratch / "image"
    stored = create_image(path, shape=shape, dtype=image.dtype, block_shape=(block,) * 3,
                          voxel_size=(1.0, 1.0, 1.0), n_levels=1, kind="image")  # fmt: skip
    for one in stored.levels[0].grid.blocks():
        stored.levels[0].write(one.write_region, image[one.write_region.slices])
    in_one_piece(image[:32, :32, :32], THRESHOLD)
    how = {"threshold": THRESHOLD, "spot_sigma": SPOT, "outline_sigma": OUTLINE}
    labeller = f"{Path(__file__).parent / 'merges' / 'quality.py'}:label_nuclei"
    results = [in_one_piece(image, THRESHOLD)]
    results.append(
        ours("ours, by name", path, scratch / "name", block, instances="voronoi-otsu", **how)
    )
    results.append(
        ours("ours, by overlap", path, scratch / "overlap", block, instances=labeller,
             labeller_options=f"threshold={THRESHOLD}", overlap_halo=HALO)
    )  # fmt: skip
    blocks = Blocks.label(image, block, THRESHOLD)
    results.append(by_cellpose(blocks))
    try:
        results.append(by_dask_image(blocks))
    except ImportError:
        print("dask-image is not installed: left out")
    return [row(true, result, results[0], block) for result in results]


def row(true: Any, result: Result, whole: Result, block: int) -> dict[str, Any]:
    """Print and return the figures of one merge."""
    answer = judged(true, result, whole.labels, block)
    same = np.array_equal(*(numbered_by_place(r.labels) for r in (result, whole)))
    seam, inside = answer["seam"], answer["interior"]
    if result is whole:
        print(f"{true.shape} voxels, blocks of {block}: {int(true.max())} nuclei, "
              f"{seam['cells']} at seams, {inside['cells']} away from them")  # fmt: skip
        print("  lost: found in one piece but not here; Mvoxel/s and merge s in CPU time, one core")
        print(f"  {'':<32}{'recall':>16}{'lost %':>16}{'cut %':>16}{'fused %':>16}")
        print(f"  {'':<32}" + f"{'seam interior':>16}" * 4
              + f"{'Mvoxel/s':>10}{'merge s':>9}{'driver MB':>10}")  # fmt: skip
    shares = "".join(
        f"{scaled * seam[key]:8.{digits}f}{scaled * inside[key]:8.{digits}f}"
        for key, scaled, digits in (
            ("recall", 1, 3),
            ("lost", 100, 2),
            ("cut", 100, 2),
            ("fused", 100, 2),
        )
    )
    rate = true.size / result.seconds / 1e6
    print(f"  {result.name:<32}{shares}{rate:10.2f}"
          f"{result.merge_seconds:9.2f}{result.driver_bytes / 1e6:10.1f}"
          f"{'  = one piece' if same and result is not whole else ''}")  # fmt: skip
    return {"name": result.name, "same_as_one_piece": same, "voxels_per_second": rate * 1e6,
            "merge_seconds": result.merge_seconds, "driver_bytes": result.driver_bytes,
            **answer}  # fmt: skip


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=["scale", "files", "quality", []], default=[])
    parser.add_argument("--smoke", action="store_true", help="seconds, for checks only")
    parser.add_argument("--side", type=int, default=80, help="blocks along each axis")
    parser.add_argument("--shape", default="192,192,192")
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--scratch", type=Path, help="where to work [temporary folder]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    z, y, x = (int(n) for n in ("96,96,96" if options.smoke else options.shape).split(","))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        if "scale" in options.parts or not options.parts:
            found["scale"] = run_scale(scratch, 6 if options.smoke else options.side)
        if "files" in options.parts or not options.parts:
            found["files"] = run_files(scratch, 6 if options.smoke else options.side)
        if "quality" in options.parts or not options.parts:
            block = 48 if options.smoke else options.block
            found["quality"] = run_quality(scratch, (z, y, x), block)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
