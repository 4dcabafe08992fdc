"""A methods paragraph that can be pasted into a paper, with its references."""

from __future__ import annotations

from collections.abc import Callable

from cellseg3d_dist.report import clean_up, text
from cellseg3d_dist.report.data import Method, ReportData

Cite = Callable[[str], str]

REFERENCES = {
    "cellseg3d": (
        "Achard C., Kousi T., Frey M., Vidal M., Paychère Y., Hofmann C., Iqbal A., Hausmann "
        "S.B., Pagès S., Mathis M.W. CellSeg3D, Self-supervised 3D cell segmentation for "
        "fluorescence microscopy. eLife 13:RP99848 (2025); bioRxiv 2024.05.17.594691 (2024). "
        "doi:10.7554/eLife.99848"
    ),
    "clesperanto": (
        "Haase R., Royer L.A., Steinbach P., et al. CLIJ: GPU-accelerated image processing for "
        "everyone. Nature Methods 17, 5-6 (2020). doi:10.1038/s41592-019-0650-1"
    ),
    "otsu": (
        "Otsu N. A threshold selection method from gray-level histograms. IEEE Transactions on "
        "Systems, Man, and Cybernetics 9(1), 62-66 (1979). doi:10.1109/TSMC.1979.4310076"
    ),
    "watershed": (
        "Beucher S., Meyer F. The morphological approach to segmentation: the watershed "
        "transformation. In: Mathematical Morphology in Image Processing, 433-481 (1993)."
    ),
}


def methods(data: ReportData, n_cells: int, touching_border: int) -> tuple[str, list[str]]:
    """The paragraph and the references it numbers, in order of their first use."""
    cited: list[str] = []

    def cite(key: str) -> str:
        if key not in cited:
            cited.append(key)
        return f"[{cited.index(key) + 1}]"

    method = data.method
    version = data.versions.get("cellseg3d_dist", "")
    sentences = [
        f"Cells were segmented and measured in 3D with cellseg3d_dist {version}".rstrip()
        + f", which builds on CellSeg3D {cite('cellseg3d')}, in a volume of "
        f"{text.product(data.shape)} voxels (z, y, x) of {text.product(data.voxel_size)} µm.",
        _foreground(method),
        *_instances(data, cite),
        *_limits(data),
        *clean_up.sentences(data.clean_up),
        *_blocks(data),
        f"{text.plural(n_cells, 'cell')} remained, of which {touching_border:,} touch the "
        "border of the volume. Cell volume is the number of voxels times the voxel volume; "
        "position is the mean of the voxel centres.",
    ]
    others = [f"{k} {v}" for k, v in data.versions.items() if k != "cellseg3d_dist"]
    if others:
        sentences.append(f"Software: {', '.join(others)}.")
    return " ".join(s for s in sentences if s), [REFERENCES[key] for key in cited]


def _foreground(method: Method) -> str:
    if method.labeller and method.foreground == "intensity":
        return ""
    if method.foreground == "intensity":
        return "The fluorescence intensity itself served as foreground."
    note = f" ({method.foreground_note})" if method.foreground_note else ""
    return f"Foreground was predicted by the network {method.foreground}{note}."


def _sigma(sigma_um: float | None, data: ReportData) -> str:
    """Smoothing in micrometres and voxels, '' for none."""
    if not sigma_um:
        return ""
    voxels = ", ".join(f"{sigma_um / size:.3g}" for size in data.voxel_size)
    return f"a Gaussian of sigma {sigma_um:.3g} µm ({voxels} voxels in z, y, x)"


def _instances(data: ReportData, cite: Cite) -> list[str]:
    """How foreground became cells."""
    method = data.method
    outline = _sigma(method.outline_sigma_um, data)
    seen = "image" if method.foreground == "intensity" else "foreground"
    smoothed = f"{seen}, smoothed with {outline}," if outline else seen
    if method.labeller:
        return [f"Cells were labelled block by block by {method.labeller}."]
    if method.instances == "voronoi-otsu":
        spots = _sigma(method.spot_sigma_um, data)
        spots = f"after {spots}" if spots else f"of the unsmoothed {seen}"
        return [
            "Touching cells were separated by Voronoi-Otsu labelling as in clEsperanto "
            f"{cite('clesperanto')}: local maxima {spots} seeded the cells; the "
            f"{smoothed} above {_threshold(data, cite)} was the mask; and each mask voxel "
            "was given to the seed that reaches it first within the mask."
        ]
    if method.instances == "watershed":
        return [
            f"Touching cells were separated by a seeded watershed {cite('watershed')} of the "
            f"{smoothed} above {_threshold(data, cite)}, flooded from {_seeds(data)}."
        ]
    if method.instances == "components":
        kind = (
            f"{method.connectivity}-connected components" if method.connectivity else "components"
        )
        return [f"Cells are the {kind} of the {smoothed} above {_threshold(data, cite)}."]
    how = f"{method.instances} representation{_decoder(method)}"
    if data.threshold is not None:
        how += f", with foreground above {_threshold(data, cite)}"
    return [f"Cells were decoded from the network's {how}."]


def _decoder(method: Method) -> str:
    """Parameters of the decoder in words, '' for none."""
    if not method.decoder:
        return ""
    named = (f"{key.replace('_', ' ')} {value:g}" for key, value in method.decoder.items())
    return f" ({', '.join(named)})"


def _seeds(data: ReportData) -> str:
    method = data.method
    spots = _sigma(method.spot_sigma_um, data)
    after = f" after {spots}" if spots else ""
    if method.seeds == "threshold" and method.seed_threshold is not None:
        return f"the components above {text.number(method.seed_threshold)}"
    if method.seeds in ("hmaxima", "distance"):
        height = "" if method.seed_threshold is None else f" of height {method.seed_threshold:g}"
        if method.seeds == "hmaxima":
            return f"the h-maxima{height}{after}"
        return f"the h-maxima{height} µm of the distance to the background, taken as landscape"
    return f"the local maxima{after}"


def _threshold(data: ReportData, cite: Cite) -> str:
    if data.threshold is None:
        return "the threshold"
    value = text.number(data.threshold.value, 4)
    if data.threshold.how == "otsu":
        return f"a threshold of {value} (Otsu's method {cite('otsu')} over the whole volume)"
    return f"a fixed threshold of {value}"


def _limits(data: ReportData) -> list[str]:
    out = []
    for limit, word, dropped in (
        (data.method.min_volume, "smaller", data.dropped_small),
        (data.method.max_volume, "larger", data.dropped_large),
    ):
        if limit:
            out.append(f"Objects {word} than {limit} were removed (n = {dropped:,}).")
    return out


def _blocks(data: ReportData) -> list[str]:
    if data.n_blocks < 2:
        return []
    first = (
        f"The volume was processed in {data.n_blocks:,} blocks of up to "
        f"{text.product(data.block_shape)} voxels"
    )
    if data.method.merging == "overlap":
        return [f"{first}; labels of neighbouring blocks were merged by mutual best overlap."]
    if data.certificate is not None and data.certificate.open_last == 0:
        return [f"{first}; the labels are those of the volume processed in one piece."]
    return [f"{first}."]
