"""Which clEsperanto package and which OpenCL device :mod:`.opencl` computes on.

``pyclesperanto_prototype`` is taken first, then ``pyclesperanto``; neither is imported
before it is used. Where the two differ stands in one place each, :func:`_prototype` and
:func:`_clic`.
"""

from __future__ import annotations

import importlib
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import EnvironmentFailedError

#: Device buffers are addressed with int32.
MAX_VOXELS = 2**31 - 1

_REMEDY = (
    "Install the 'opencl' extra (pip install 'cellseg3d_dist[opencl]') and an OpenCL driver "
    "(for a CPU the Debian package pocl-opencl-icd)."
)
# compiled kernels keep their arguments as state, so threads of one process take turns
_LOCK = threading.RLock()


@dataclass(frozen=True)
class Package:
    """One clEsperanto package: where the two differ, by name of the difference."""

    name: str
    cle: Any
    errors: tuple[type[Exception], ...]
    devices: Callable[[], list[str]]
    select: Callable[..., Any]
    #: image ► maximum over 3 x 3 x 3
    box_maximum: Callable[[Any], Any]
    #: image ► their local maxima
    maxima: Callable[[Any], Any]
    #: (labels, flag, labels afterwards): empty voxels take the largest neighbour
    box_step: Callable[[Any, Any, Any], Any]
    diamond_step: Callable[[Any, Any, Any], Any]
    #: voxels beyond which their one-call labelling confuses seeds
    max_labelled_voxels: int


def _prototype() -> Package:
    cle = importlib.import_module("pyclesperanto_prototype")
    driver = importlib.import_module("pyopencl")
    return Package(
        name="pyclesperanto_prototype",
        cle=cle,
        errors=(driver.Error,),
        devices=cle.available_device_names,
        select=cle.select_device,
        box_maximum=lambda image: cle.maximum_box(image, None, 1, 1, 1),
        maxima=lambda image: cle.detect_maxima_box(image, None, 0, 0, 0),
        box_step=cle.onlyzero_overwrite_maximum_box,
        diamond_step=cle.onlyzero_overwrite_maximum_diamond,
        # it numbers voxels in float32: two seeds further on can get one label
        max_labelled_voxels=2**24,
    )


def _clic() -> Package:
    with warnings.catch_warnings():
        # without a driver it imports with a warning and without its functions
        warnings.simplefilter("ignore", RuntimeWarning)
        cle = importlib.import_module("pyclesperanto")
    if not hasattr(cle, "onlyzero_overwrite_maximum"):
        raise ImportError("pyclesperanto found no OpenCL driver, or is too old (tested: 0.25)")
    step = cle.onlyzero_overwrite_maximum
    return Package(
        name="pyclesperanto",
        cle=cle,
        errors=(RuntimeError,),
        devices=cle.list_available_devices,
        select=cle.select_device,
        box_maximum=lambda image: cle.maximum_filter(image, None, 1, 1, 1, "box"),
        maxima=lambda image: cle.detect_maxima(image, None, 0, 0, 0, "box"),
        box_step=lambda a, flag, b: step(a, flag, b, "box"),
        diamond_step=lambda a, flag, b: step(a, flag, b, "sphere"),
        max_labelled_voxels=MAX_VOXELS,
    )


def _package() -> Package:
    reasons = []
    for load in (_prototype, _clic):
        try:
            return load()
        except ImportError as error:
            reasons.append(str(error))
    raise EnvironmentFailedError(f"No clEsperanto package: {'; '.join(reasons)}. {_REMEDY}")


def _device_names(package: Package) -> tuple[str, ...]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            names = tuple(package.devices())
    except package.errors as error:
        raise EnvironmentFailedError(
            f"{package.name} finds no OpenCL driver: {error}. {_REMEDY}"
        ) from error
    if not names:
        raise EnvironmentFailedError(f"{package.name} finds no OpenCL device. {_REMEDY}")
    return names


def available_devices() -> tuple[str, ...]:
    """Names of the OpenCL devices.

    Raises
    ------
    EnvironmentFailedError
        No clEsperanto package or no device.
    """
    with _LOCK:
        return _device_names(_package())


@contextmanager
def session(what: str, shape: tuple[int, ...], device: str | None) -> Iterator[Package]:
    """The package with its device selected; device errors become ours."""
    with _LOCK:
        package = _package()
        names = _device_names(package)
        wanted = next((n for n in names if (device or "").lower() in n.lower()), None)
        if wanted is None:
            raise EnvironmentFailedError(
                f"No OpenCL device named {device!r}; there are: {', '.join(names)}. "
                "Name one of these, or none for the package's own choice."
            )
        try:
            if device is None:
                package.select()
            else:
                package.select(wanted)
            yield package
        except package.errors as error:
            raise EnvironmentFailedError(
                f"OpenCL {what} of {shape} voxels failed with {package.name}: {error}. "
                "Use a smaller block_shape or another device."
            ) from error


def push(package: Package, array: npt.NDArray[Any]) -> Any:
    """Copy to the device, as float32."""
    return package.cle.push(np.ascontiguousarray(array, dtype=np.float32))


def pull(package: Package, array: Any, like: npt.NDArray[Any], dtype: Any) -> Any:
    """Copy from the device, in the shape of ``like``."""
    # the shape is restored because the newer package may drop leading axes of length 1
    return np.asarray(package.cle.pull(array)).reshape(like.shape).astype(dtype, copy=False)
