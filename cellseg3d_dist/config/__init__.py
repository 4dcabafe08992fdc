"""Configurations: every command-line option is a key here and in one YAML file."""

from __future__ import annotations

from cellseg3d_dist.config.reading import read_yaml, validated
from cellseg3d_dist.config.segment import DEFAULT_MODEL, SegmentConfig, make_config, read_config
from cellseg3d_dist.config.values import CellVolume, Floats, Length, LengthText, Triplet

__all__ = [
    "DEFAULT_MODEL",
    "CellVolume",
    "Floats",
    "Length",
    "LengthText",
    "SegmentConfig",
    "Triplet",
    "make_config",
    "read_config",
    "read_yaml",
    "validated",
]
