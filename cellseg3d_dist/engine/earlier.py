"""An earlier run whose results are used again: its prediction, its surveys, its fragments.

::

    OUT/prediction.ome.zarr, OUT/peaks    what its network made of the image
    OUT/surveys/                          what was found of the whole image
    OUT/work/                             fragments, where they were kept

What can be taken over is taken over; what cannot is computed again by the same stages.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import cellseg3d_dist
from cellseg3d_dist.config import SegmentConfig, make_config, read_yaml
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.surveyed import load_survey
from cellseg3d_dist.errors import ConfigError, OutputError
from cellseg3d_dist.grid import BlockGrid, Selection, Triple

if TYPE_CHECKING:
    from cellseg3d_dist.engine.stages.survey import SurveyResult
    from cellseg3d_dist.instances.filters import Sigma

#: Options that decide what is predicted or surveyed: another value needs the whole run again.
PREDICTING = (
    "image", "model", "voxel_size", "channel", "time", "level", "region", "mask", "preprocess",
    "device", "batch", "threads", "flips", "compat",
)  # fmt: skip
#: Options that matter once there are fragments only.
MERGING = ("min_volume", "max_volume", "clean_up", "fucci")
#: Facts that are found after there are fragments.
_LATER = (
    "survey", "merge", "clean_up", "warnings", "cells", "cells_digest", "fucci", "scores",
)  # fmt: skip


@dataclass(frozen=True)
class EarlierRun:
    """A run folder that is read from, never written to."""

    folder: RunFolder

    @classmethod
    def of(cls, path: str | Path) -> EarlierRun:
        """The run in a folder.

        Raises
        ------
        OutputError
            If it is no run, is not complete, or is another version's.
        """
        found = cls(RunFolder(Path(path)))
        status = found.status
        if status["status"] != "complete":
            raise OutputError(
                f"{path} is not complete ({status['status']}), so it cannot be labelled again. "
                f"First {found.folder.go_on}"
            )
        if status.get("version") != cellseg3d_dist.__version__:
            raise OutputError(
                f"{path} was made by version {status.get('version')}, this is "
                f"{cellseg3d_dist.__version__}. Label it again with that version."
            )
        if lacking := sorted({"fingerprint", "deciding", "plan", "facts"} - status.keys()):
            raise OutputError(f"{found.folder.status_file} lacks {lacking[0]}; it was edited.")
        return found

    @functools.cached_property
    def status(self) -> dict[str, Any]:
        """Content of its ``run.json``."""
        return self.folder.status()

    @functools.cached_property
    def config(self) -> SegmentConfig:
        """Its resolved configuration."""
        return make_config(read_yaml(self.folder.config), str(self.folder.config))

    @property
    def block_shape(self) -> Triple:
        """Of all its stages."""
        z, y, x = self.status["plan"]["block_shape"]
        return (z, y, x)

    @functools.cached_property
    def predicted(self) -> EarlierRun:
        """The run that holds the prediction: this one, or the one it was itself made from."""
        if self.config.earlier_run is None:
            return self
        return EarlierRun.of(self.config.earlier_run).predicted

    @property
    def model(self) -> dict[str, Any]:
        """What it says of its network.

        Raises
        ------
        OutputError
            If there is no prediction.
        """
        source = self.predicted
        found: dict[str, Any] = source.status["facts"].get("model", {})
        if "card" not in found or not source.folder.prediction.is_dir():
            raise OutputError(
                f"{source.folder.prediction} is missing, so there is nothing to label again. "
                f"Start a new run."
            )
        return found

    def survey(self, name: str, grid: BlockGrid, smoothing: Sigma | None) -> SurveyResult | None:
        """A survey of this run, where it is there and was one of the same blocks and smoothing."""
        return load_survey(self.folder.surveys / f"{name}.npz", grid, smoothing)

    def fragments(self, config: SegmentConfig, grid: BlockGrid) -> Fragments | None:
        """Its fragments, where they were kept and would come out the same."""
        same = _until_merged(self.status["deciding"]) == _until_merged(config.deciding())
        found = Fragments(self.folder.work, grid)
        there = (found.folder / "passes.npy").exists()
        return found if same and there and self.block_shape == grid.block_shape else None

    def labelled_facts(self) -> dict[str, Any]:
        """What it found until it had fragments."""
        facts = self.status["facts"]
        return {key: value for key, value in facts.items() if key not in _LATER}


def with_fragments(fragments: Fragments) -> Selection:
    """Blocks that have fragments."""
    passes = np.load(fragments.folder / "passes.npy")
    return Selection(fragments.grid, np.flatnonzero(passes))


def _until_merged(deciding: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides fragments."""
    kept = {key: value for key, value in deciding.items() if key not in MERGING}
    decoder = {k: v for k, v in (kept.pop("decoder", None) or {}).items() if k != "min_voxels"}
    return kept | {"decoder": decoder}


def check_same_source(earlier: EarlierRun, config: SegmentConfig, fingerprint: Any) -> None:
    """Refuse what the earlier run's results do not hold for.

    Raises
    ------
    ConfigError
        If an option would need the network, or the survey, again.
    OutputError
        If the image is not the one of the earlier run any more.
    """
    before, now = earlier.config.deciding(), config.deciding()
    changed = [key for key in PREDICTING if before.get(key) != now.get(key)]
    if changed:
        key = changed[0]
        raise ConfigError(
            f"{key} {now.get(key, 'unset')!r} is not that of {earlier.folder.path} "
            f"({before.get(key, 'unset')!r}), whose results are used again. Leave it out, or run "
            f"segment."
        )
    if config.block_shape is not None and config.block_shape != earlier.block_shape:
        raise ConfigError(
            f"block_shape {config.block_shape} is not {earlier.block_shape}, that of "
            f"{earlier.folder.path}, whose results are used again. Leave it out."
        )
    if earlier.status["fingerprint"] != fingerprint:
        raise OutputError(
            f"the image or mask of {earlier.folder.path} has changed since, by sizes or times of "
            f"its files. Start a new run, or undo that."
        )


def check_predicted(
    earlier: EarlierRun, reach: Triple, sparse: dict[str, Any] | None, masked: bool
) -> None:
    """Refuse to decode what was not predicted: farther from the mask, or less probable.

    Raises
    ------
    ConfigError
        With what is needed and what is there.
    """
    source = earlier.predicted
    before = source.status["plan"]
    if masked and any(n > b for n, b in zip(reach, before["reach"], strict=True)):
        raise ConfigError(
            f"labels depend on the prediction up to {reach} voxels from the mask, but "
            f"{source.folder.path} has it up to {tuple(before['reach'])}. Use smaller sigmas, or "
            f"run segment."
        )
    kept = before["sparse"]
    if sparse is not None and kept is not None and sparse["threshold"] < kept["threshold"]:
        raise ConfigError(
            f"decoder threshold {sparse['threshold']:g} is below {kept['threshold']:g}, the least "
            f"probability that {source.folder.path} has candidates of. Use a higher one, or run "
            f"segment."
        )
