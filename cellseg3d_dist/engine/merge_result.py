"""What a merge came to, and where its lookup lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class MergeResult:
    """Counts of the merge, and where its lookup lies.

    Attributes
    ----------
    lookup : Path
        Folder with ``final.npy``, ``offsets.npy`` and ``names.npy`` (of each final id).
    lookup_digest : str
        Of the first two.
    """

    n_cells: int
    n_fragments: int
    n_too_small: int
    n_too_large: int
    dtype: np.dtype[np.unsignedinteger]
    lookup: Path
    lookup_digest: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "cells": self.n_cells,
            "fragments": self.n_fragments,
            "too_small": self.n_too_small,
            "too_large": self.n_too_large,
            "dtype": str(self.dtype),
        }
