"""The exception tree. Every message says what failed, where, the limit and the remedy.

::

    CellSegError
    ├── BadInputError           exit 2: a path, array, key or option that cannot be used
    │   ├── VolumeError         a stored image that cannot be opened or trusted
    │   │   └── VoxelSizeError  it states no voxel size
    │   ├── LabelsError         labels that are no label image
    │   ├── ConfigError         an option or config key
    │   ├── OutputError         the output folder may not be created or replaced
    │   ├── MemoryLimitError    a plan over the memory limit
    │   └── WeightsError        weights or their card cannot be used
    ├── LabellerError           a labeller failed, or what it returned is no label image
    ├── BlocksFailedError       exit 3: some blocks failed; the run can be resumed
    └── EnvironmentFailedError  exit 4: disk, cluster or device
"""

from __future__ import annotations


class CellSegError(Exception):
    """Base of all errors raised on purpose by this package."""

    exit_code = 1


class BadInputError(CellSegError):
    """Input or configuration that cannot be used; nothing was created."""

    exit_code = 2


class VolumeError(BadInputError):
    """A stored image that cannot be opened or trusted."""


class VoxelSizeError(VolumeError):
    """A stored image whose voxel size is not known."""


class LabelsError(BadInputError):
    """Labels that are not integers or are negative; of no use in whatever block they are."""


class ConfigError(BadInputError):
    """An option or config key that cannot be used."""


class OutputError(BadInputError):
    """An output folder that may not be created, replaced or resumed."""


class MemoryLimitError(BadInputError):
    """A plan whose projected memory is over the limit."""


class WeightsError(BadInputError):
    """Weights, a card or a checkpoint that cannot be used."""


class LabellerError(CellSegError):
    """A labeller that failed in a block, or returned something other than labels."""

    exit_code = 3


class BlocksFailedError(CellSegError):
    """Some blocks failed. The rest is done and the run can be resumed."""

    exit_code = 3


class EnvironmentFailedError(CellSegError):
    """Disk, cluster or device failed, not the input."""

    exit_code = 4
