"""Random numbers that are a function of a position, so that no draw depends on the cut.

Nothing here or in the modules that build on it calls exp, log or sin: only additions,
products, divisions and square roots, which IEEE 754 fixes to the bit.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_STEP_Z = np.uint64(0xD1B54A32D192ED03)
_STEP_Y = np.uint64(0xABC98388FB8FAC03)
STEP_X = np.uint64(0x8CB92BA72F3D8DD7)
_S27, _S30, _S31, _S40 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(40)
_S16, _S32, _S48 = np.uint64(16), np.uint64(32), np.uint64(48)
_LOW16 = np.uint64(0xFFFF)
_NORMAL_SCALE = np.float32(1.0 / math.sqrt(4 * (65536.0**2 - 1) / 12))


@njit(cache=True, nogil=True)
def mix(state: np.uint64) -> np.uint64:
    """One output of splitmix64 (Steele, Lea and Flood, 2014)."""
    state = state + _GOLDEN
    state = (state ^ (state >> _S30)) * _MIX_1
    state = (state ^ (state >> _S27)) * _MIX_2
    return state ^ (state >> _S31)


@njit(cache=True, nogil=True)
def position_state(seed: np.uint64, z: int, y: int, x: int) -> np.uint64:
    """State to mix for an integer position; one step in x adds ``STEP_X``."""
    return seed + np.uint64(z) * _STEP_Z + np.uint64(y) * _STEP_Y + np.uint64(x) * STEP_X


@njit(cache=True, nogil=True)
def uniform(bits: np.uint64) -> float:
    """A number in [0, 1) on a grid of 2**-24."""
    return float(bits >> _S40) * (1.0 / 16777216.0)


@njit(cache=True, nogil=True)
def normal(bits: np.uint64) -> np.float32:
    """Nearly normal, mean 0 and variance 1, within 3.47: four 16-bit uniforms added."""
    total = (bits & _LOW16) + ((bits >> _S16) & _LOW16) + ((bits >> _S32) & _LOW16) + (bits >> _S48)
    return np.float32(np.int32(total) - np.int32(131070)) * _NORMAL_SCALE


@njit(cache=True, nogil=True)
def _smoothstep(f: float) -> float:
    return f * f * (3.0 - 2.0 * f)


@njit(cache=True, nogil=True)
def value_noise(seed: np.uint64, z: float, y: float, x: float) -> float:
    """Smooth field in [0, 1) with features of size 1: hashed corners, smoothstep between."""
    iz, iy, ix = math.floor(z), math.floor(y), math.floor(x)
    fz, fy, fx = z - iz, y - iy, x - ix
    fz, fy, fx = _smoothstep(fz), _smoothstep(fy), _smoothstep(fx)
    total = 0.0
    for dz in range(2):
        wz = fz if dz else 1.0 - fz
        for dy in range(2):
            wy = fy if dy else 1.0 - fy
            state = position_state(seed, int(iz) + dz, int(iy) + dy, int(ix))
            row = uniform(mix(state)) * (1.0 - fx) + uniform(mix(state + STEP_X)) * fx
            total += wz * wy * row
    return total
