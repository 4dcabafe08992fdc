"""Measurements as tables: one, or two side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cellseg3d_dist.costs.work import family

GIB = 2**30


def half(measured: dict[str, Any]) -> dict[str, Any]:
    """The matching score at an IoU of 0.5."""
    scores: list[dict[str, Any]] = measured["scores"]["matching"]
    at_half = (s for s in scores if abs(s["threshold"] - 0.5) < 1e-9)
    return next(s for s in at_half if s["criterion"].lower() == "iou")


def print_measured(measured: dict[str, Any]) -> None:
    """One measurement."""
    about, program, volume = (measured[key] for key in ("machine", "program", "volume"))
    memory, written = measured["memory"], measured["written"]
    shape = " x ".join(map(str, volume["shape"]))
    print(
        f"{program['name']} {program.get('version', '')} on {about['cpu']}, {about['cores']} "
        f"cores, {about['memory_bytes'] / 1e9:.0f} GB; load before {about['load_before']}"
    )
    print(
        f"{shape} voxels, {volume['dtype']}, {volume['cells']:,} cells; "
        f"{measured['workers']} workers, blocks of {program.get('block_shape', '?')}"
    )
    if "stages" in program:
        _print_stages(program)
    rate = measured["voxels_per_second"] / 1e6
    print(f"  {'all':<18} {'':>7} {measured['seconds']:>8.1f} {rate:>9.1f}")
    print(f"  all processes together {memory['all_peak'] / GIB:.2f} GiB at most")
    if "projected" in program:
        projected, limit = program["projected"] / GIB, program["limit"] / GIB
        early, late = (memory[key] / GIB for key in ("driver_early", "driver_late"))
        print(
            f"  worker peak {memory['worker_peak'] / GIB:.2f} GiB, projected {projected:.2f}, "
            f"limit {limit:.2f}"
        )
        print(
            f"  driver and scheduler {early:.2f} GiB in the second tenth of the run, {late:.2f} "
            f"in the last, peak {memory['driver_peak'] / GIB:.2f}"
        )
    at_most = sum(part["bytes"] for part in program.get("disk", {}).values())
    most = f", {at_most / 1e6:.1f} MB before work was removed" if at_most else ""
    print(f"  left on disk {written['bytes'] / 1e6:.1f} MB in {written['files']} files{most}")
    _print_scores(measured)


def _print_stages(program: dict[str, Any]) -> None:
    print(
        f"  {'stage':<18} {'blocks':>7} {'s':>8} {'Mvoxel/s':>9} {'busy s':>8} {'CPU s':>8} "
        f"{'GB read':>8} {'GB written':>11} {'worker GiB':>11}"
    )
    for stage in program["stages"]:
        took = max(stage["seconds"], 1e-9)
        print(
            f"  {stage['stage']:<18} {stage['blocks']:>7} {took:>8.1f} "
            f"{stage['voxels'] / took / 1e6:>9.1f} {stage['busy_seconds']:>8.1f} "
            f"{stage['cpu_seconds']:>8.1f} {stage['read_bytes'] / 1e9:>8.2f} "
            f"{stage['written_bytes'] / 1e9:>11.3f} {stage['peak_rss'] / GIB:>11.2f}"
        )
    for step, seconds in program["steps"].items():
        if seconds >= 0.05:
            print(f"  {step:<18} {'driver':>7} {seconds:>8.1f}")


def _print_scores(measured: dict[str, Any]) -> None:
    scores, true = measured["scores"], measured["volume"]["cells"]
    at_half, found = half(measured), scores["n_pred"]
    print(
        f"  cells {found:,}, true {true:,} ({found / max(true, 1) - 1:+.1%}); F1 "
        f"{at_half['f1']:.3f}, precision {at_half['precision']:.3f}, recall "
        f"{at_half['recall']:.3f} at IoU 0.5; Dice of the foreground "
        f"{scores['foreground']['dice']:.3f}"
    )


def rows(measured: dict[str, Any]) -> Iterator[tuple[str, float, str]]:
    """What is compared of a measurement: name, number and its format."""
    volume, memory, program = (measured[key] for key in ("volume", "memory", "program"))
    yield "voxels", float(volume["voxels"]), ",.0f"
    yield "workers", float(measured["workers"]), ".0f"
    yield "seconds", measured["seconds"], ".1f"
    yield "Mvoxel/s", measured["voxels_per_second"] / 1e6, ".2f"
    yield "worker GiB", memory["worker_peak"] / GIB, ".2f"
    yield "driver GiB", memory["driver_peak"] / GIB, ".2f"
    yield "all GiB", memory["all_peak"] / GIB, ".2f"
    yield "MB on disk", measured["written"]["bytes"] / 1e6, ".1f"
    yield "files", float(measured["written"]["files"]), ".0f"
    yield "cells", float(measured["scores"]["n_pred"]), ",.0f"
    for key in ("f1", "precision", "recall"):
        yield f"{key} at IoU 0.5", half(measured)[key], ".4f"
    seconds: dict[str, float] = {}
    for stage in program.get("stages", []):
        name = family(stage["stage"])
        seconds[name] = seconds.get(name, 0.0) + stage["seconds"]
    seconds |= {f"{step} (driver)": s for step, s in program.get("steps", {}).items()}
    for name, took in seconds.items():
        yield f"s {name}", took, ".1f"


def print_compared(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Two measurements and the ratio of the second to the first."""
    for letter, measured in (("A", a), ("B", b)):
        about, program = measured["machine"], measured["program"]
        print(f"{letter}: {program['name']} {program.get('version', '')} on {about['cpu']}, "
              f"{about['cores']} cores, {about['memory_bytes'] / 1e9:.0f} GB, "
              f"{about['system']}")  # fmt: skip
    different = [
        f"{name} {one} and {two}"
        for name, one in a["machine"]["versions"].items()
        if (two := b["machine"]["versions"].get(name)) != one
    ]
    if different:
        print(f"versions differ: {', '.join(different)}")
    if a["volume"] != b["volume"]:
        print("the volumes are not the same: compare rates, not seconds")
    first, second = ({name: (n, form) for name, n, form in rows(m)} for m in (a, b))
    print(f"  {'':<22} {'A':>14} {'B':>14} {'B / A':>8}")
    for name in dict.fromkeys([*first, *second]):
        one, two = first.get(name), second.get(name)
        texts = [format(cell[0], cell[1]) if cell else "-" for cell in (one, two)]
        ratio = f"{two[0] / one[0]:.2f}" if one and two and one[0] else "-"
        print(f"  {name:<22} {texts[0]:>14} {texts[1]:>14} {ratio:>8}")
