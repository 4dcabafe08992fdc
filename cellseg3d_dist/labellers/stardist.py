"""The installed StarDist (3D) as a labeller."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import ConfigError, EnvironmentFailedError
from cellseg3d_dist.grid import Triple, ceil_div
from cellseg3d_dist.labellers.installed import files_digest, program, versions_of
from cellseg3d_dist.labellers.labeller import Size, voxels_of

#: Sides of the tiles that the network is given at a time.
_TILE = 96
_PACKAGES = "stardist tensorflow"


@dataclass
class StarDist:
    """StarDist on the whole volume's percentiles, for one channel.

    Voxels are given as they are: they should be of the size that the model was trained at.

    Attributes
    ----------
    model : str
        Name of a pretrained 3D model, or a folder of one.
    diameter : float
        Of the largest cells, in micrometres; a block sees so much more, and what the
        network looks at.
    prob_thresh, nms_thresh : float, optional
        The model's own by default.
    device : 'cpu' or 'cuda'
    """

    model: str = "3D_demo"
    diameter: float = 15.0
    prob_thresh: float | None = None
    nms_thresh: float | None = None
    device: str = "cpu"
    bytes_per_voxel: int = 128
    fixed_bytes: int = 3 * 2**30
    percentiles: tuple[float, float] = (1.0, 99.8)

    def __post_init__(self) -> None:
        # whatever is wrong shows before a run begins
        self._network  # noqa: B018

    @cached_property
    def _network(self) -> Any:
        models = program("stardist.models", _PACKAGES)
        self._choose_device()
        folder = Path(self.model)
        # it reports on standard output
        with contextlib.redirect_stdout(io.StringIO()):
            if folder.is_dir():
                found = models.StarDist3D(None, name=folder.name, basedir=str(folder.parent))
            else:
                found = models.StarDist3D.from_pretrained(self.model)
        if found is None:
            raise ConfigError(
                f"labeller stardist knows no 3D model {self.model!r}. Give a folder, or the name "
                f"of a pretrained one."
            )
        return found

    def _choose_device(self) -> None:
        devices = program("tensorflow", _PACKAGES).config
        if self.device == "cpu":
            devices.set_visible_devices([], "GPU")
        elif not devices.list_physical_devices("GPU"):
            raise EnvironmentFailedError(
                f"device {self.device} was asked for, and TensorFlow finds no GPU here. Install a "
                f"build for CUDA, or use --device cpu."
            )

    def halo(self, voxel_size: Size) -> Triple:
        """The largest cell and what the network looks at around a voxel."""
        context = self._network._axes_tile_overlap("ZYX")
        cell = voxels_of(self.diameter, voxel_size)
        z, y, x = (c + int(n) for c, n in zip(cell, context, strict=True))
        return (z, y, x)

    def label(self, image: npt.NDArray[Any], voxel_size: Size) -> npt.NDArray[Any]:
        """Labels of the normalised image."""
        labels, _ = self._network.predict_instances(
            image,
            axes="ZYX",
            normalizer=None,
            prob_thresh=self.prob_thresh,
            nms_thresh=self.nms_thresh,
            n_tiles=tuple(ceil_div(n, _TILE) for n in image.shape),
            show_tile_progress=False,
        )
        return np.asarray(labels)

    def facts(self) -> dict[str, Any]:
        """Versions, weights and thresholds."""
        folder = Path(self._network.logdir)
        weights = [p for p in folder.iterdir() if p.suffix in (".h5", ".json", ".keras")]
        return {
            "name": "stardist",
            "versions": versions_of("stardist", "csbdeep", "tensorflow", "tensorflow-cpu"),
            "model": folder.name,
            "sha256": files_digest(weights),
            "prob_thresh": self.prob_thresh,
            "nms_thresh": self.nms_thresh,
            "device": self.device,
        }


LABELLER = StarDist
