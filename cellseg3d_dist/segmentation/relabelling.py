"""What is asked for when a finished run is labelled again: its options, some of them replaced."""

from __future__ import annotations

from typing import Any

from cellseg3d_dist.config import make_config, read_yaml
from cellseg3d_dist.engine.earlier import PREDICTING, EarlierRun
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.networks.cards import known
from cellseg3d_dist.segmentation.preparing import Order

#: Options that a decoder's parameter of the same name stands in for.
_OF_DECODER = ("threshold", "spot_sigma", "outline_sigma")


def order_again(earlier: EarlierRun, options: dict[str, Any], command: str) -> Order:
    """The order of a run that uses an earlier one's results.

    Raises
    ------
    ConfigError
        If an option is unknown or wrong, or decides what was predicted or surveyed.
    """
    before = read_yaml(earlier.folder.config)
    make_config(before | options)
    for key in PREDICTING:
        if key in options and make_config(before | {key: options[key]}) != earlier.config:
            raise ConfigError(
                f"{key} {options[key]!r} is not that of {earlier.folder.path} "
                f"({before.get(key, 'unset')!r}), whose results are used again. Leave it out, or "
                f"run segment."
            )
    given = before | options | {"earlier_run": str(earlier.folder.path)}
    if options.get("decoder") is not None:
        chosen = make_config({"image": "", "decoder": options["decoder"]}).decoder or {}
        given["decoder"] = (before.get("decoder") or {}) | chosen
        for key in _OF_DECODER:
            if key in chosen and key not in options:
                del given[key]
    return Order(make_config(given).located(known()), None, command)
