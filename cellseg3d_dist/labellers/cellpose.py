"""The installed Cellpose (version 3 or 4, in 3D) as a labeller."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Triple
from cellseg3d_dist.labellers.installed import files_digest, program, versions_of
from cellseg3d_dist.labellers.labeller import Size, voxels_of

#: Diameter, in voxels of x, that Cellpose scales nothing for.
_DIAMETER = 30
#: The first version with one model for all, and without channels.
_FOUR = 4


@dataclass
class Cellpose:
    """Cellpose on the whole volume's percentiles, for one channel: flows of all three planes.

    Attributes
    ----------
    model : str
        Name of a model or path of its weights; the version's own default by default.
    diameter : float, optional
        Of cells, in micrometres; without it nothing is scaled.
    cellprob_threshold : float
    min_size : int
        Voxels below which Cellpose drops a cell in a block.
    device : 'cpu' or 'cuda'
    """

    model: str = ""
    diameter: float | None = None
    cellprob_threshold: float = 0.0
    min_size: int = 15
    device: str = "cpu"
    bytes_per_voxel: int = 160
    fixed_bytes: int = 3 * 2**30
    percentiles: tuple[float, float] = (1.0, 99.0)

    def __post_init__(self) -> None:
        # whatever is wrong shows before a run begins
        self._network  # noqa: B018

    @cached_property
    def _network(self) -> Any:
        models = program("cellpose.models", "cellpose")
        if self.device != "cpu":
            from cellseg3d_dist.networks.device import check_device

            # Cellpose itself would go on without one
            check_device(self.device)
        chosen = {}
        if self.model:
            is_name = self._version < _FOUR and not Path(self.model).exists()
            chosen = {"model_type" if is_name else "pretrained_model": self.model}
        return models.CellposeModel(gpu=self.device != "cpu", **chosen)

    @property
    def _version(self) -> int:
        return int(metadata.version("cellpose").partition(".")[0])

    def halo(self, voxel_size: Size) -> Triple:
        """One and a half diameters."""
        return voxels_of(1.5 * (self.diameter or _DIAMETER * voxel_size[2]), voxel_size)

    def label(self, image: npt.NDArray[Any], voxel_size: Size) -> npt.NDArray[Any]:
        """Labels of the normalised image."""
        found = self._network.eval(
            image,
            z_axis=0,
            do_3D=True,
            normalize=False,
            anisotropy=voxel_size[0] / voxel_size[2],
            diameter=None if self.diameter is None else self.diameter / voxel_size[2],
            cellprob_threshold=self.cellprob_threshold,
            min_size=self.min_size,
            **({"channels": [0, 0]} if self._version < _FOUR else {}),
        )
        return np.asarray(found[0])

    def facts(self) -> dict[str, Any]:
        """Versions, weights and parameters."""
        used = self._network.pretrained_model
        files = [Path(p) for p in ([used] if isinstance(used, str | Path) else used)]
        return {
            "name": "cellpose",
            "versions": versions_of("cellpose", "torch"),
            "model": ", ".join(path.name for path in files),
            "sha256": files_digest(files),
            "diameter": self.diameter,
            "cellprob_threshold": self.cellprob_threshold,
            "min_size": self.min_size,
            "device": self.device,
        }


LABELLER = Cellpose
