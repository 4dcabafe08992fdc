"""Sentences and headline numbers of the report, from its data."""

from __future__ import annotations

from math import isfinite, prod

import numpy as np

from cellseg3d_dist.report import clean_up, text
from cellseg3d_dist.report.cells import Cells
from cellseg3d_dist.report.data import ReportData
from cellseg3d_dist.report.seams import ALPHA, SeamCheck


def cards(data: ReportData, cells: Cells) -> list[dict[str, str]]:
    """Headline numbers: name, value, a line below."""
    extent_um3 = prod(data.extent_um)
    border = f"{cells.touching_border:,} touch the border"
    out = [{"name": "Cells", "value": f"{cells.total:,}", "sub": border}]
    if data.truth is not None:
        out.append(
            {
                "name": "Cells in truth",
                "value": f"{data.truth.n_cells:,}",
                "sub": data.truth.source,
            }
        )
    best = _f1_at_half(data)
    if best is not None:
        out.append({"name": "F1 at IoU 0.5", "value": f"{best:.3f}", "sub": "against the truth"})
    filled = float(cells.volume_um3.sum()) * cells.weight
    if extent_um3:
        out.append(
            {
                "name": "Density",
                "value": text.number(cells.total / extent_um3 * 1e9),
                "sub": f"cells per mm³, filling {text.share(filled, extent_um3)}",
            }
        )
    if cells.total:
        out.append(
            {
                "name": "Median cell",
                "value": text.length(float(np.median(cells.diameter_um))),
                "sub": f"diameter; {text.volume(float(np.median(cells.volume_um3)))}",
            }
        )
    voxels = prod(data.shape)
    out.append(
        {
            "name": "Volume",
            "value": text.volume(extent_um3),
            "sub": f"{text.product(data.shape)} voxels",
        }
    )
    seconds = sum(t.seconds for t in data.timings)
    if seconds > 0:
        speed = f"{text.number(voxels / seconds / 1e6)} Mvoxel/s"
        on = f"{speed}, {data.machine}" if data.machine else speed
        out.append({"name": "Time", "value": text.duration(seconds), "sub": on})
    return out


def _f1_at_half(data: ReportData) -> float | None:
    for row in data.matching:
        half = abs(float(row["threshold"]) - 0.5) < 1e-9
        if half and str(row.get("criterion", "")).lower() == "iou":
            return float(row["f1"])
    return None


def footer(data: ReportData) -> str:
    """Which program made the page."""
    version = data.versions.get("cellseg3d_dist", "")
    return f"Made by cellseg3d_dist {version}".rstrip() + ". Axis order is z, y, x."


def completeness(data: ReportData, cells: Cells) -> list[tuple[str, str]]:
    """Rows of what was computed, skipped, dropped and failed."""
    skipped = sum(s.blocks for s in data.skipped)
    rows = [("Blocks", f"{data.n_blocks:,} of up to {text.product(data.block_shape)} voxels")]
    done = data.n_blocks - skipped - len(data.failed_blocks)
    rows.append(("computed", f"{done:,}"))
    for s in data.skipped:
        voxels = "" if s.voxels is None else f" ({s.voxels:,} voxels)"
        rows.append(("skipped", f"{s.blocks:,}{voxels}: {s.reason}"))
    if not data.skipped:
        rows.append(("skipped", "none"))
    rows.append(("failed", f"{len(data.failed_blocks):,}" if data.failed_blocks else "none"))
    for name, limit, n in (
        ("too small", data.method.min_volume, data.dropped_small),
        ("too large", data.method.max_volume, data.dropped_large),
    ):
        if limit or n:
            bound = f" (limit {limit})" if limit else ""
            rows.append((f"objects dropped, {name}", f"{n:,}{bound}"))
    rows += clean_up.rows(data.clean_up)
    share = text.share(cells.touching_border, cells.total)
    rows.append(("cells touching the border", f"{cells.touching_border:,} ({share}), kept"))
    return rows


def certificate(data: ReportData) -> list[str]:
    """What was proven, in words."""
    proof = data.certificate
    if data.method.merging == "overlap" and data.n_blocks < 2:
        return ["The volume was labelled in one piece, as one block."]
    if data.method.merging == "overlap":
        return [
            "Blocks were merged by mutual best overlap, because the method only hands back "
            "labels. That cannot promise the labels of the volume in one piece; the seam check "
            "below looks for traces of the cut."
        ]
    if data.method.merging == "contact" and proof is None:
        return [
            "Connected components of blocks that touch across a face, edge or corner are one "
            "object: the labels are those of the volume in one piece, whatever the cut."
        ]
    if proof is None:
        return ["This run recorded no proof that its labels do not depend on the cut."]
    closed = proof.voxels - proof.open_first
    out = [
        f"Of {proof.voxels:,} {proof.of}, {closed:,} "
        f"({text.share(closed, proof.voxels)}) were proven by their own block at once: no path "
        f"from outside its read region could have changed their label. "
        f"{proof.open_first:,} were open."
    ]
    if proof.open_first:
        settled = f"{text.plural(proof.blocks_redone, 'block')} read again with twice the halo"
        if proof.blocks_exchanged:
            settled += (
                f", {text.plural(proof.blocks_exchanged, 'block')} settled by exchange with the "
                f"neighbours in {text.plural(proof.rounds, 'round')}"
            )
        out.append(f"To close them: {settled}.")
    if proof.open_last == 0:
        out.append(
            "Nothing is left open: the labels are, voxel for voxel, those of the volume "
            "labelled in one piece, whatever the block shape, worker count or order."
        )
    else:
        out.append(
            f"{proof.open_last:,} voxels are still open: their labels may depend on the cut."
        )
    return out


def seams(check: SeamCheck) -> str:
    """The verdict of the seam check."""
    if check.status == "no interior faces":
        return "The volume is one block: there are no seams to check."
    if check.status == "too few cells":
        return f"Too few cells ({check.n_cells:,}) near block faces for a test to say anything."
    if check.status == "blocks too small":
        return "Blocks are too narrow for cells near a face to be compared with cells off the face."
    numbers = (
        f"Near the {check.n_faces:,} interior block faces there are {_ratio(check.density_ratio)} "
        f"as many cells per voxel as just beside them (p = {_p(check.count_p)}), and the median "
        f"cell is {_ratio(check.size_ratio)} as large (p = {_p(check.size_p)})."
    )
    if check.shows:
        return (
            f"{numbers} Differences this large are rare in randomly shifted grids (p at or below "
            f"{ALPHA:g}): the cut may show. About one in fifty sound volumes looks like this by "
            "chance; look at slices across block faces."
        )
    return f"{numbers} Randomly shifted grids differ as much: no sign of the cut."


def _ratio(value: float) -> str:
    return f"{value:.3f} times" if isfinite(value) else "(no cell to compare)"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"


def seams_caption(check: SeamCheck) -> str:
    """How to read the seam figure."""
    if check.status != "tested":
        return ""
    return (
        f"Near is within {text.product(check.width)} voxels (z, y, x; 0: axis not cut), about a "
        f"cell's radius, flanks are as wide again: {check.n_near:,} and {check.n_flank:,} cells. "
        f"p is the share of {check.n_shifts:,} randomly shifted grids, and the real one, that "
        "differ at least as much, so structure of the tissue does not count as a seam."
    )


def threshold(data: ReportData) -> str:
    """Which threshold, and where it comes from."""
    if data.threshold is None:
        return ""
    value = text.number(data.threshold.value, 4)
    unit = "image units" if data.method.foreground == "intensity" else "probability"
    if data.threshold.how == "otsu":
        return (
            f"Foreground is above {value} ({unit}), Otsu's threshold of the whole volume; "
            "skipped blocks count in its histogram."
        )
    return f"Foreground is above {value} ({unit}), as given."


def criterion_name(criterion: str) -> str:
    """A matching criterion as it is written in papers."""
    return {"iou": "IoU", "iot": "IoT", "iop": "IoP"}.get(criterion.lower(), criterion)


def scores(data: ReportData, criterion: str) -> str:
    """Found, wrong and missed cells at the middle threshold."""
    rows = [r for r in data.matching if str(r.get("criterion", "")) == criterion]
    row = min(rows, key=lambda r: abs(float(r["threshold"]) - 0.5))
    true = int(row["tp"]) + int(row["fn"])
    return (
        f"At {criterion_name(criterion)} {float(row['threshold']):g}, {int(row['tp']):,} of "
        f"{true:,} true cells were found, {int(row['fn']):,} missed, and {int(row['fp']):,} "
        "labels match none."
    )
