"""Figures of the papers, each with where it is printed.

CellSeg3D: Achard et al., eLife 13, RP99848, 2025. Its evaluation notebooks are published in
the repository C-Achard/cellseg3d-figures; where only they have a figure it says "notebook".
NucMM: Lin et al., MICCAI 2021. Spheroid thesis: Tiling, Leiden University, 2024.
"""

from __future__ import annotations

IOU = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

#: F1 at IoU 0.1 to 0.9, then their mean: CellSeg3D, Table S1.
F1_BY_PLANE: dict[str, dict[str, tuple[float, ...]]] = {
    "platynereis-ish": {
        "Otsu": (0.872, 0.847, 0.817, 0.772, 0.706, 0.605, 0.474, 0.246, 0.026, 0.596),
        "Cellpose": (0.896, 0.866, 0.832, 0.778, 0.698, 0.576, 0.362, 0.117, 0.010, 0.570),
        "StarDist": (0.841, 0.822, 0.786, 0.686, 0.536, 0.326, 0.110, 0.011, 0.0, 0.458),
        "WNet3D": (0.876, 0.856, 0.834, 0.790, 0.729, 0.632, 0.492, 0.249, 0.034, 0.610),
    },
    "platynereis": {
        "Otsu": (0.798, 0.773, 0.733, 0.702, 0.663, 0.590, 0.507, 0.336, 0.077, 0.576),
        "Cellpose": (0.691, 0.663, 0.624, 0.594, 0.553, 0.497, 0.417, 0.290, 0.062, 0.488),
        "StarDist": (0.850, 0.833, 0.803, 0.764, 0.700, 0.611, 0.492, 0.272, 0.019, 0.594),
        "WNet3D": (0.838, 0.808, 0.778, 0.739, 0.695, 0.617, 0.512, 0.338, 0.059, 0.598),
    },
    "mouse-skull": {
        "Otsu": (0.667, 0.634, 0.596, 0.566, 0.495, 0.427, 0.369, 0.276, 0.097, 0.458),
        "Otsu, cleaned up": (0.695, 0.668, 0.647, 0.612, 0.543, 0.490, 0.428, 0.334, 0.137, 0.506),
        "Cellpose": (0.137, 0.111, 0.077, 0.054, 0.038, 0.028, 0.020, 0.014, 0.006, 0.054),
        "Cellpose, cleaned up": (
            0.386, 0.362, 0.339, 0.312, 0.266, 0.228, 0.189, 0.120, 0.027, 0.248,
        ),
        "StarDist": (0.573, 0.533, 0.411, 0.253, 0.135, 0.065, 0.020, 0.003, 0.0, 0.221),
        "StarDist, cleaned up": (
            0.689, 0.649, 0.557, 0.407, 0.276, 0.174, 0.073, 0.010, 0.0, 0.315,
        ),
        "WNet3D": (0.766, 0.732, 0.669, 0.572, 0.455, 0.355, 0.254, 0.175, 0.033, 0.446),
        "WNet3D, cleaned up": (
            0.807, 0.783, 0.763, 0.725, 0.637, 0.534, 0.428, 0.296, 0.073, 0.561,
        ),
    },
}  # fmt: skip

#: True objects that were counted, planes apart, and the exact counts (TP, FP, FN) at IoU 0.5 of
#: WNet3D (cleaned up for the skull): CellSeg3D, notebook "self-supervised-extra".
N_TRUE_BY_PLANE = {"mouse-skull": 4906, "platynereis-ish": 2652, "platynereis": 1052}
COUNTS = {
    "mouse-skull": (3205, 1952, 1701),
    "platynereis-ish": (2067, 949, 585),
    "platynereis": (664, 194, 388),
}

#: Dice on mesoSPIM, mean and standard deviation over held-out volumes, with 80 and 10 % of the
#: labels: CellSeg3D, text of "Results". WNet3D saw images only.
MESOSPIM_DICE: dict[str, dict[str, tuple[float, float]]] = {
    "80 % of the labels": {
        "SwinUNetR": (0.83, 0.01), "Cellpose, tuned": (0.76, 0.03), "SegResNet": (0.74, 0.06),
        "StarDist, tuned": (0.72, 0.07), "WNet3D": (0.71, 0.03),
        "StarDist, default": (0.61, 0.07), "Cellpose, default": (0.43, 0.09),
    },
    "10 % of the labels": {
        "SwinUNetR": (0.78, 0.07), "WNet3D": (0.74, 0.02), "StarDist, tuned": (0.69, 0.02),
        "SegResNet": (0.42, 0.13), "StarDist, default": (0.39, 0.36),
        "Cellpose, tuned": (0.32, 0.40), "Cellpose, default": (0.20, 0.35),
    },
    "pretrained": {"WNet3D": (0.74, 0.12), "WNet3D, artifacts cropped": (0.81, 0.004)},
}  # fmt: skip
#: The same volume by volume (visual, c5, c3), models trained on the other volumes: notebook
#: "supervised_benchmark", folds 1, 2 and 3.
MESOSPIM_DICE_BY_VOLUME = {
    "Otsu": (0.489, 0.666, 0.789),
    "SwinUNetR": (0.841, 0.789, 0.855),
    "SegResNet": (0.773, 0.801, 0.847),
    "Cellpose, tuned": (0.770, 0.829, 0.793),
    "StarDist, tuned": (0.699, 0.794, 0.758),
    "WNet3D": (0.590, 0.809, 0.811),
    "WNet3D, artifacts cropped": (0.818, 0.809, 0.811),
}
#: Cells in each volume: CellSeg3D, Table 1.
MESOSPIM_CELLS = {"c1": 343, "c2": 365, "c3": 631, "c4": 396, "c5": 347, "visual": 485}

#: AP50, AP75 and their mean on the 90 % for testing: NucMM, Table 2.
NUCMM_AP = {
    "nucmm-z": {
        "Cellpose": (0.796, 0.342, 0.569), "StarDist": (0.912, 0.328, 0.620),
        "U3D-BC": (0.782, 0.556, 0.670), "U3D-BCD": (0.978, 0.809, 0.894),
    },
    "nucmm-m": {
        "Cellpose": (0.463, 0.002, 0.233), "StarDist": (0.306, 0.004, 0.155),
        "U3D-BC": (0.645, 0.210, 0.428), "U3D-BCD": (0.638, 0.250, 0.444),
    },
}  # fmt: skip

CHANNELS = ("Cy3", "GFP", "Hoechst")
#: Final score: mean over channels, then Cy3, GFP, Hoechst: thesis, Table 7.
SPHEROIDS = {
    "StarDistResnet": (0.776, 0.608, 0.896, 0.826),
    "StarDistU-Net": (0.778, 0.652, 0.879, 0.804),
    "StarDistSmall": (0.663, 0.434, 0.844, 0.712),
    "fineYogurt": (0.725, 0.826, 0.810, 0.543),
    "amberGlitter": (0.763, 0.869, 0.844, 0.576),
    "goldenPond": (0.744, 0.847, 0.827, 0.559),
    "divineViolet": (0.715, 0.826, 0.793, 0.527),
    "drawnFirebrand": (0.692, 0.739, 0.844, 0.494),
    "comicFirefly": (0.771, 0.826, 0.862, 0.625),
    "glowing_dew": (0.537, 0.500, 0.758, 0.353),
}
