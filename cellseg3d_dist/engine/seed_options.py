"""Where a watershed starts: its options, their defaults, and what they do not go with."""

from __future__ import annotations

from typing import Any

from cellseg3d_dist.config import SegmentConfig
from cellseg3d_dist.errors import ConfigError

#: Foreground of a network that is surely inside a cell (CellSeg3D's).
SEED_THRESHOLD = 0.9
#: Options of a watershed alone.
KEYS = ("seeds", "seed_threshold", "min_seed_voxels", "h")
#: Seeds that are peaks by height.
PEAKS = ("hmaxima", "distance")
#: Height of a peak of a network's foreground.
HEIGHT = 0.1


def seed_defaults(config: SegmentConfig, *, predicted: bool) -> dict[str, Any]:
    """What was not said of a watershed's seeds; nothing for other methods.

    Parameters
    ----------
    predicted : bool
        Whether a network's foreground is flooded, not the image itself.

    Raises
    ------
    ConfigError
        If an option does not go with the method or with the seeds.
    """
    if config.instances != "watershed":
        # labelling an earlier run again keeps what that run was told
        given = [key for key in KEYS if getattr(config, key) is not None]
        if given and config.earlier_run is None:
            raise ConfigError(
                f"{given[0]} is for instances 'watershed', not {config.instances!r}. Add "
                f"--instances watershed, or leave it out."
            )
        return {}
    seeds = config.seeds or ("threshold" if predicted else "spots")
    if seeds not in PEAKS and config.h is not None and config.earlier_run is None:
        raise ConfigError(
            f"h is the height of peaks, not for seeds {seeds!r}. Add --seeds hmaxima or "
            f"distance, or leave it out."
        )
    if seeds in PEAKS:
        return _peak_defaults(config, seeds, predicted)
    if seeds == "spots":
        _only_for_thresholds(config, seeds)
        return {"seeds": seeds}
    if config.seed_threshold is None and not predicted:
        raise ConfigError(
            "seeds 'threshold' of an image need seed_threshold, in the image's units. Give "
            "--seed-threshold, or --seeds spots."
        )
    if predicted and config.seed_threshold is not None and not 0 <= config.seed_threshold <= 1:
        raise ConfigError(
            f"seed_threshold {config.seed_threshold:g} is outside 0 to 1, the range of a "
            f"network's foreground. Give one inside."
        )
    filled: dict[str, Any] = {"seeds": seeds, "min_seed_voxels": 1}
    if predicted:
        # a smoothed probability is seldom as sure as 0.9
        filled |= {"seed_threshold": SEED_THRESHOLD, "outline_sigma": "0um"}
    return filled


def _peak_defaults(config: SegmentConfig, seeds: str, predicted: bool) -> dict[str, Any]:
    _only_for_thresholds(config, seeds)
    if seeds == "distance":
        return {"seeds": seeds}
    if config.h is None and not predicted:
        raise ConfigError(
            "seeds 'hmaxima' of an image need h, the height of a peak in the image's units. Give "
            "--h, or --seeds spots."
        )
    return {"seeds": seeds} | ({"h": HEIGHT} if predicted else {})


def _only_for_thresholds(config: SegmentConfig, seeds: str) -> None:
    for key in ("seed_threshold", "min_seed_voxels"):
        if getattr(config, key) is not None and config.earlier_run is None:
            raise ConfigError(
                f"{key} is for seeds by threshold, not {seeds!r}. Add --seeds threshold, or "
                f"leave it out."
            )
