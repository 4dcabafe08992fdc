"""Steps that an image may go through before cells are sought; each exact under the cut."""

from cellseg3d_dist.preprocessing.equalisation import TileGrid, equalised
from cellseg3d_dist.preprocessing.steps import (
    Background,
    Constants,
    Equalise,
    Gamma,
    Median,
    OpenBall,
    Step,
    Tables,
    apply_steps,
    halo_of,
)

__all__ = [
    "Background",
    "Constants",
    "Equalise",
    "Gamma",
    "Median",
    "OpenBall",
    "Step",
    "Tables",
    "TileGrid",
    "apply_steps",
    "equalised",
    "halo_of",
]
