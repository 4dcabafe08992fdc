"""The report of a run folder: what ``run.json`` and its neighbours hold, put into a page."""

from __future__ import annotations

import json
import platform
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from cellseg3d_dist.config import SegmentConfig
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.errors import OutputError
from cellseg3d_dist.grid import Triple
from cellseg3d_dist.report.data import (
    Certificate,
    FailedBlock,
    Method,
    Projection,
    ReportData,
    Skipped,
    StageTiming,
    Threshold,
)
from cellseg3d_dist.report.html import write_report
from cellseg3d_dist.volumes import Volume, open_volume

_GIB = 2**30


def write_run_report(out: Path, config: SegmentConfig, volume: Volume, block_shape: Triple) -> Path:
    """Write ``report.html`` into a run folder.

    Parameters
    ----------
    out : Path
        A run folder whose labels and cells are written.
    config : SegmentConfig
    volume : Volume
        The image that was segmented.
    block_shape : (int, int, int)
        Of the run.
    """
    folder = RunFolder(out)
    status = folder.status()
    facts = status["facts"]
    matching: tuple[dict[str, Any], ...] = ()
    scores = out / "scores.json"
    if scores.exists():
        try:
            matching = tuple(json.loads(scores.read_text())["matching"])
        except (OSError, ValueError, KeyError) as error:
            raise _damaged(scores, error) from error
    failed = status.get("failed_blocks", [])
    return write_report(
        out / "report.html",
        ReportData(
            title=Path(config.image).name or config.image,
            image=volume,
            labels=open_volume(folder.labels),
            shape=volume.shape,
            voxel_size=volume.voxel_size,
            block_shape=block_shape,
            cells_path=folder.cells,
            method=_method(config, volume, facts),
            image_path=config.image,
            offset=volume.offset,
            status=f"{len(failed)} BLOCKS FAILED" if failed else "COMPLETE",
            projections=_projections(out, volume),
            n_blocks=facts["blocks"]["total"],
            dropped_small=facts["merge"]["too_small"],
            dropped_large=facts["merge"]["too_large"],
            clean_up=tuple(facts.get("clean_up", ())),
            skipped=_skipped(facts),
            certificate=_certificate(facts),
            threshold=_threshold(facts),
            timings=tuple(_timing(entry) for entry in status.get("stages", [])),
            failed_blocks=tuple(
                FailedBlock(str(tuple(f["block"])), f["stage"], f["error"]) for f in failed
            ),
            warnings=tuple(facts["warnings"]),
            statements=_statements(config, volume, status),
            versions=status.get("versions", {}),
            command=status.get("command", ""),
            config_yaml=config.to_yaml(),
            matching=matching,
            finished=status.get("ended", ""),
            machine=f"{platform.system()} {platform.machine()}",
        ),
    )


def rewrite_report(out: Path, config: SegmentConfig) -> Path:
    """Write the report of a finished run again, from its folder and its image."""
    folder = RunFolder(out)
    status = folder.status()
    if "facts" not in status:
        raise OutputError(f"{out} has no results yet. To get them, {folder.go_on}")
    volume = open_volume(
        config.image,
        voxel_size=config.voxel_size,
        channel=config.channel,
        time=config.time_point,
        level=config.level,
        region=config.region_box,
    )
    try:
        z, y, x = status["plan"]["block_shape"]
        return write_run_report(out, config, volume, (z, y, x))
    except KeyError as error:
        raise OutputError(f"{folder.status_file} lacks {error}. Start the run anew.") from error


def _damaged(path: Path, error: Exception) -> OutputError:
    return OutputError(f"{path} is missing or damaged ({error}). Start the run anew.")


def _method(config: SegmentConfig, volume: Volume, facts: dict[str, Any]) -> Method:
    finest = min(volume.voxel_size)
    seeds = "spots" if config.instances == "voronoi-otsu" else config.seeds or ""
    if config.instances not in ("voronoi-otsu", "watershed"):
        seeds = ""

    def micrometres(length: Any) -> float:
        return float(length.value * (1.0 if length.in_micrometres else finest))

    model, decoded = facts.get("model", {}), config.instances == "decode"
    note = ""
    if model.get("sha256"):
        note = (
            f"{model['architecture']}, representation {model['representation']}, weights sha256 "
            f"{model['sha256'][:12]}"
        )
    return Method(
        foreground=model.get("name", config.model),
        foreground_note=note,
        instances=model["representation"] if decoded else config.instances or "",
        decoder=dict(model.get("decoder", {})) if decoded else {},
        spot_sigma_um=micrometres(config.spot_sigma) if seeds == "spots" else None,
        outline_sigma_um=None
        if decoded or config.labels_outside
        else micrometres(config.outline_sigma),
        seeds=seeds,
        seed_threshold=facts.get("seeds", {}).get("h", config.seed_threshold) if seeds else None,
        connectivity=config.connectivity if config.instances == "components" else None,
        min_volume=str(config.min_volume or ""),
        max_volume=str(config.max_volume or ""),
        merging=_merging(config),
        labeller=_labeller(facts),
    )


def _merging(config: SegmentConfig) -> str:
    if config.labels_outside:
        return "overlap"
    return "contact" if config.instances == "components" else "name"


def _labeller(facts: dict[str, Any]) -> str:
    """A labeller with its versions and the halo it was given; '' for none."""
    found = facts.get("overlap")
    if found is None:
        return ""
    labeller = found["labeller"]
    versions = ", ".join(f"{k} {v}" for k, v in labeller.get("versions", {}).items())
    name = labeller.get("name", "labeller") + (f" ({versions})" if versions else "")
    z, y, x = found["halo"]
    return f"{name}, which saw {z}, {y} and {x} voxels (z, y, x) beyond each block"


def _projections(out: Path, volume: Volume) -> tuple[Projection, ...]:
    path = out / "survey.npz"
    try:
        with np.load(path) as stored:
            planes = {name: stored[name] for name in ("z", "y", "x", "steps")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error
    z, y, x = (
        float(step * size) for step, size in zip(planes["steps"], volume.voxel_size, strict=True)
    )
    return (
        Projection("yx", planes["z"], (y, x)),
        Projection("zx", planes["y"], (z, x)),
        Projection("zy", planes["x"], (z, y)),
    )


def _skipped(facts: dict[str, Any]) -> tuple[Skipped, ...]:
    blocks = facts["blocks"]
    found = (
        Skipped("no voxel above the threshold", blocks["below_threshold"]),
        Skipped("outside the mask", blocks["outside_mask"]),
    )
    return tuple(skipped for skipped in found if skipped.blocks)


def _certificate(facts: dict[str, Any]) -> Certificate | None:
    found = facts.get("certificate")
    if found is None:
        return None
    return Certificate(
        voxels=found["voxels"],
        open_first=found["open_first"],
        blocks_redone=found["redone"],
        blocks_exchanged=found["exchanged"],
        rounds=found["rounds"],
        open_last=found["open_last"],
        of=found.get("of", "foreground voxels"),
    )


def _threshold(facts: dict[str, Any]) -> Threshold | None:
    found = facts.get("threshold")
    if found is None:
        return None
    counts = edges = None
    if "counts" in found:
        counts = np.asarray(found["counts"], np.int64)
        half = (found["high"] - found["low"]) / 255 / 2
        edges = np.linspace(found["low"] - half, found["high"] + half, counts.size + 1)
    return Threshold(found["value"], found["how"], counts, edges)


def _timing(entry: dict[str, Any]) -> StageTiming:
    seconds = entry["seconds"]
    rate = entry["voxels"] / seconds / 1e6 if seconds and entry["voxels"] else None
    return StageTiming(entry["stage"], entry["blocks"], seconds, rate)


def _statements(config: SegmentConfig, volume: Volume, status: dict[str, Any]) -> tuple[str, ...]:
    said = []
    if config.region is not None:
        said.append(
            f"Restricted to region {config.plain()['region']}: threshold, cells and "
            f"touches_border refer to it alone."
        )
    if config.mask is not None:
        said.append(f"Cells were sought, and the threshold found, inside the mask {config.mask}.")
    prepared = status["facts"].get("preprocessing")
    if prepared is not None:
        said.append(
            f"Preprocessed before cells were sought: {', '.join(prepared['steps'])}; grey values "
            f"range from {prepared['range'][0]:g} to {prepared['range'][1]:g}. Intensities were "
            f"measured in the image as it is."
        )
    fucci = status["facts"].get("fucci")
    if fucci is not None:
        reporters = (
            f"{color} ({fucci[color]['column']}) above {fucci[color]['threshold']:.4g} "
            f"({fucci[color]['how']})"
            for color in ("red", "green")
        )
        states = (f"{state} {n:,}" for state, n in fucci["cells"].items() if n)
        said.append(
            f"Cell cycle by FUCCI reporters, {' and '.join(reporters)}; cells: "
            f"{', '.join(states) or 'none'}."
        )
    peaks = [entry["peak_rss"] for entry in status.get("stages", []) if entry.get("peak_rss")]
    projected = max((stage["n_bytes"] for stage in status["plan"]["stages"]), default=0)
    if peaks:
        said.append(
            f"Largest memory of a worker {max(peaks) / _GIB:.2f} GiB, projected "
            f"{projected / _GIB:.2f} GiB, limit {status['plan']['memory_limit'] / _GIB:.2f} GiB."
        )
    return tuple(said)
