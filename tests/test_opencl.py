"""OpenCL primitives against scipy, numpy and this package's numba kernels."""

import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from cellseg3d_dist.errors import BadInputError, EnvironmentFailedError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.instances import opencl, opencl_device, voronoi
from cellseg3d_dist.instances.filters import gaussian as numba_gaussian
from cellseg3d_dist.instances.opencl_kernels import OpenCLKernels
from cellseg3d_dist.instances.threshold import count_bins, otsu

SHAPES = [(1, 1, 1), (1, 1, 6), (1, 5, 1), (6, 1, 1), (1, 5, 6), (7, 6, 9)]

on_device = [
    pytest.mark.opencl,
    # the driver's compiler is talkative the first time a kernel is built
    pytest.mark.filterwarnings("ignore:Non-empty compiler output"),
    pytest.mark.usefixtures("package"),
]


@pytest.fixture(scope="module")
def package():
    try:
        opencl.available_devices()
    except EnvironmentFailedError as error:
        pytest.skip(str(error))
    return opencl_device._package()


def reference_gaussian(image, sigma):
    out = image.astype(np.float64)
    for axis, s in enumerate(sigma):
        if s > 0:
            radius = int(8 * s) // 2
            v = np.arange(-radius, radius + 1)
            taps = np.exp(-(v**2) / (2 * s * s))
            out = ndimage.correlate1d(out, taps / taps.sum(), axis=axis, mode="nearest")
    return out


def is_spot(values, ties="first"):
    """By definition, voxel by voxel: of equals the first in x-major order, or none."""
    padded = np.pad(values.astype(float), 1, constant_values=-np.inf)
    result = np.ones(values.shape, bool)
    for dx, dy, dz in product((-1, 0, 1), repeat=3):
        if (dx, dy, dz) == (0, 0, 0):
            continue
        other = np.roll(padded, (-dz, -dy, -dx), (0, 1, 2))[1:-1, 1:-1, 1:-1]
        strict = ties == "none" or (dx, dy, dz) < (0, 0, 0)
        result &= (values > other) if strict else (values >= other)
    return result


def reference_flood(seeds, mask, idle_steps=2):
    """Grey dilation by box and diamond in turn until ``idle_steps`` change nothing."""
    box, diamond = np.ones((3, 3, 3), bool), ndimage.generate_binary_structure(3, 1)
    labels = np.where(mask, seeds, 0)
    step = idle = 0
    while idle < idle_steps:
        grown = ndimage.grey_dilation(
            labels, footprint=diamond if step % 2 else box, mode="constant", cval=0
        )
        after = np.where((labels == 0) & mask, grown, labels)
        idle = idle + 1 if np.array_equal(after, labels) else 0
        labels, step = after, step + 1
    return labels


def random_flood(seed, shape=(9, 11, 13)):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.45
    seeds = np.where(rng.random(shape) < 0.05, rng.permutation(mask.size).reshape(shape) + 1, 0)
    return seeds.astype(np.int32), mask


class TestPrimitives:
    pytestmark = on_device

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("sigma", [(0.65, 0.65, 0.65), (0, 1, 2.75), (2, 0, 0), (0.1, 0.2, 0)])
    def test_gaussian(self, shape, sigma):
        image = np.random.default_rng(1).integers(0, 4000, shape).astype(np.uint16)
        smoothed = opencl.gaussian(image, sigma)
        assert smoothed.dtype == np.float32
        assert smoothed.shape == shape
        np.testing.assert_allclose(smoothed, reference_gaussian(image, sigma), rtol=2e-6)

    def test_gaussian_is_ours_to_a_few_last_bits(self):
        image = np.random.default_rng(2).random((12, 14, 16)).astype(np.float32)
        for sigma in [(0.65, 0.65, 0.65), (1.0, 2.0, 3.0)]:
            theirs, ours = opencl.gaussian(image, sigma), numba_gaussian(image, sigma)
            np.testing.assert_array_max_ulp(theirs, ours, maxulp=8)

    def test_gaussian_without_sigma_is_a_copy(self):
        image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        np.testing.assert_array_equal(opencl.gaussian(image, (0, 0, 0)), image)

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("levels", [1, 2, 4, 100000])
    def test_spots(self, shape, levels):
        values = np.random.default_rng(levels).integers(0, levels, shape).astype(np.float32)
        np.testing.assert_array_equal(opencl.spots(values), is_spot(values))

    def test_spots_of_large_values(self):
        values = np.random.default_rng(3).integers(0, 3, (5, 6, 7)).astype(np.float32) * 2 + 2**25
        np.testing.assert_array_equal(opencl.spots(values), is_spot(values))

    @pytest.mark.parametrize("seed", range(5))
    def test_flood(self, seed):
        seeds, mask = random_flood(seed)
        labels = opencl.flood(seeds, mask)
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, reference_flood(seeds, mask))

    @pytest.mark.parametrize("shape", SHAPES)
    def test_flood_of_thin_arrays(self, shape):
        seeds, mask = random_flood(7, shape)
        seeds.flat[-1], mask.flat[-1] = 3, True
        np.testing.assert_array_equal(opencl.flood(seeds, mask), reference_flood(seeds, mask))

    def test_flood_goes_on_along_a_diagonal(self):
        mask = np.zeros((3, 12, 12), bool)
        mask[1, range(1, 11), range(1, 11)] = True
        seeds = np.zeros(mask.shape, np.int32)
        seeds[1, 1, 1] = 5
        np.testing.assert_array_equal(opencl.flood(seeds, mask), np.where(mask, 5, 0))

    def test_last_exact_rank(self):
        seeds = np.zeros((1, 1, 5), np.int64)
        seeds[0, 0, [0, 4]] = opencl.MAX_RANK - 1, opencl.MAX_RANK
        labels = opencl.flood(seeds, np.ones(seeds.shape, bool))
        np.testing.assert_array_equal(labels[0, 0] - opencl.MAX_RANK, [-1, -1, 0, 0, 0])

    def test_device_by_name(self):
        name = opencl.available_devices()[0]
        image = np.ones((2, 3, 4), np.float32)
        np.testing.assert_array_equal(opencl.gaussian(image, (0, 0, 0), name.upper()), image)
        with pytest.raises(EnvironmentFailedError, match=r"no such device.*there are: "):
            opencl.gaussian(image, (0, 0, 0), "no such device")

    def test_empty(self):
        nothing = np.zeros((0, 3, 4), np.uint16)
        assert opencl.gaussian(nothing, (1, 1, 1)).shape == nothing.shape
        assert opencl.spots(nothing).shape == nothing.shape
        assert opencl.flood(nothing, nothing).shape == nothing.shape
        assert opencl.voronoi_otsu(nothing, (1, 1, 1), (1, 1, 1)).shape == nothing.shape


@dataclass(frozen=True)
class Rules:
    """What the two packages do differently."""

    ties: str
    raster: bool


@pytest.fixture(scope="module")
def rules(package):
    if package.name == "pyclesperanto_prototype":
        return Rules(ties="first", raster=False)
    return Rules(ties="none", raster=True)


def number(is_seed, raster):
    labels = np.zeros(is_seed.shape, np.int64)
    view = labels if raster else labels.T
    view[is_seed if raster else is_seed.T] = np.arange(1, is_seed.sum() + 1)
    return labels


def reference_labels(image, spot_sigma, outline_sigma, threshold, rules):
    outline = opencl.gaussian(image, outline_sigma)
    mask = outline > np.float32(threshold)
    is_seed = is_spot(opencl.gaussian(image, spot_sigma), rules.ties) & mask
    return reference_flood(number(is_seed, rules.raster), mask, idle_steps=1)


def otsu_of(outline):
    low, high = float(outline.min()), float(outline.max())
    return otsu(count_bins(outline, low, high), low, high)


def noise(seed, shape=(9, 15, 17)):
    return np.random.default_rng(seed).integers(0, 6, shape).astype(np.uint8)


class TestOneCall:
    pytestmark = on_device

    @pytest.mark.parametrize("spot_sigma", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0)])
    @pytest.mark.parametrize("threshold", [None, 2.4])
    def test_against_numpy(self, spot_sigma, threshold, rules):
        image, outline_sigma = noise(5), (0.65, 0.65, 0.65)
        labels = opencl.voronoi_otsu(image, spot_sigma, outline_sigma, threshold)
        assert labels.dtype == np.uint32
        assert labels.max() > 20
        value = otsu_of(opencl.gaussian(image, outline_sigma)) if threshold is None else threshold
        np.testing.assert_array_equal(
            labels, reference_labels(image, spot_sigma, outline_sigma, value, rules)
        )

    def test_steps_equal_the_call(self, package):
        image, sigma = noise(6), (1.0, 1.0, 1.0)
        device_image = opencl_device.push(package, image)
        found = package.maxima(opencl._blur(package, device_image, sigma))
        mask = package.cle.threshold_otsu(opencl._blur(package, device_image, sigma))
        stepwise = package.cle.masked_voronoi_labeling(package.cle.binary_and(found, mask), mask)
        np.testing.assert_array_equal(
            opencl.voronoi_otsu(image, sigma, sigma),
            opencl_device.pull(package, stepwise, image, np.uint32),
        )

    def test_constant_image_has_no_foreground(self):
        image = np.full((3, 4, 5), 7, np.uint8)
        assert not opencl.voronoi_otsu(image, (1, 1, 1), (1, 1, 1)).any()

    def test_not_a_number(self):
        image = np.full((3, 4, 5), np.nan, np.float32)
        with pytest.raises(BadInputError, match="NaN"):
            opencl.voronoi_otsu(image, (1, 1, 1), (1, 1, 1))

    def test_more_voxels_than_it_can_number(self, package, monkeypatch):
        small = replace(package, max_labelled_voxels=59)
        monkeypatch.setattr(opencl_device, "_package", lambda: small)
        with pytest.raises(BadInputError, match=r"60 voxels.*only up to 59"):
            opencl.voronoi_otsu(noise(1, (3, 4, 5)), (1, 1, 1), (1, 1, 1))


@dataclass(frozen=True)
class Differences:
    """Voxels that belong to another cell, by cause; ``unexplained`` would be a fault."""

    threshold_tie: int = 0
    spot_tie: int = 0
    step_tie: int = 0
    stop_rule: int = 0
    unexplained: int = 0


def explain(image, spec, theirs, rules):
    """Compare clEsperanto's labels with ours by the position of each voxel's seed.

    *threshold tie*: foreground in one only, within 8 last bits of the threshold.
    *spot tie*: a seed of one only, within 8 last bits of its largest neighbour.
    *step tie*: our flood with the seeds ranked in their order agrees with them.
    *stop rule*: empty there, and their seeds and stop rule leave it empty.
    """
    outline, limit = numba_gaussian(image, spec.outline_sigma), np.float32(spec.threshold)
    smoothed = numba_gaussian(image, spec.spot_sigma)
    our_seeds = is_spot(smoothed) & (outline > limit)
    ours = seed_of(voronoi.voronoi_otsu(image, spec), our_seeds, raster=False)
    their_mask = opencl.gaussian(image, spec.outline_sigma) > limit
    their_seeds = is_spot(opencl.gaussian(image, spec.spot_sigma), rules.ties) & their_mask
    by_seed = seed_of(theirs, their_seeds, rules.raster)

    around = ndimage.generate_binary_structure(3, 3)
    around[1, 1, 1] = False
    rival = ndimage.maximum_filter(smoothed, footprint=around, mode="constant", cval=-np.inf)
    near_tie = our_seeds ^ their_seeds
    near_tie &= np.abs(smoothed - rival) <= 8 * np.spacing(smoothed)
    disputed = np.append(near_tie.ravel(), False)
    reordered = reference_flood(number(our_seeds, rules.raster), outline > limit)
    halted = reference_flood(number(their_seeds, rules.raster), their_mask, idle_steps=1)
    causes = {
        "threshold_tie": ((ours < 0) ^ (by_seed < 0))
        & (np.abs(outline - limit) <= 8 * np.spacing(limit)),
        "spot_tie": disputed[ours] | disputed[by_seed],
        "step_tie": seed_of(reordered, our_seeds, rules.raster) == by_seed,
        "stop_rule": (by_seed < 0) & (halted == 0) & their_mask,
    }
    left, counts = by_seed != ours, {}
    for cause, explained in causes.items():
        counts[cause] = int((left & explained).sum())
        left &= ~explained
    return Differences(**counts, unexplained=int(left.sum()))


def seed_of(labels, is_seed, raster):
    """Raveled index of each voxel's seed, -1 for background."""
    at = np.full(int(labels.max()) + 1, -1)
    at[number(is_seed, raster)[is_seed]] = np.flatnonzero(is_seed)
    np.testing.assert_array_equal(labels[is_seed], number(is_seed, raster)[is_seed])
    return at[labels]


REAL = {
    "mesospim": ("mouse_brain_mesospim/test_very_small.tif", (slice(None),) * 3),
    "c_elegans": ("c_elegans_embryo/WT-EMB01_t140.tif", (slice(None), slice(150), slice(150))),
    "mouse_embryo": (
        "mouse_embryo_bbbc050/images/Emb01_t401.tif",
        (slice(30), slice(40, 170), slice(40, 170)),
    ),
}


class TestAgainstNumba:
    pytestmark = on_device

    @pytest.mark.parametrize("name", REAL)
    @pytest.mark.parametrize("sigma", [0.65, 2.0])
    def test_real_volume(self, name, sigma, rules, shared_data):
        path, part = REAL[name]
        image = np.ascontiguousarray(tifffile.imread(shared_data / path)[part])
        sigmas = (sigma, sigma, sigma)
        spec = voronoi.VoronoiSpec(sigmas, sigmas, otsu_of(numba_gaussian(image, sigmas)))
        theirs = opencl.voronoi_otsu(image, sigmas, sigmas)
        assert theirs.max() > 10
        differences = explain(image, spec, theirs, rules)
        assert differences.unexplained == 0, differences
        if name == "mesospim" and not rules.raster:
            assert differences == Differences()
        # the same rules on the device leave only what the last bits decide
        ours = voronoi.voronoi_otsu(image, spec)
        kernels = OpenCLKernels()
        assert (voronoi.voronoi_otsu(image, spec, kernels=kernels) != ours).mean() < 1e-4

    @pytest.mark.parametrize("seed", range(4))
    def test_ties_are_explained(self, seed, rules):
        coarse = np.random.default_rng(seed).integers(0, 3, (5, 6, 7)) * 40
        image = np.kron(coarse, np.ones((3, 3, 3), int)).astype(np.uint8)
        for spot_sigma in (0.0, 1.0):
            spec = voronoi.VoronoiSpec((spot_sigma,) * 3, (0.5, 0.5, 0.5), 21.0)
            theirs = opencl.voronoi_otsu(image, spec.spot_sigma, spec.outline_sigma, 21.0)
            differences = explain(image, spec, theirs, rules)
            assert differences.unexplained == 0, differences

    def test_stop_rule_is_explained(self, rules):
        image = np.zeros((3, 14, 14), np.uint8)
        image[1, range(2, 12), range(2, 12)] = np.arange(20, 10, -1)
        spec = voronoi.VoronoiSpec((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 5.0)
        theirs = opencl.voronoi_otsu(image, spec.spot_sigma, spec.outline_sigma, 5.0)
        assert explain(image, spec, theirs, rules) == Differences(stop_rule=8)

    @pytest.mark.parametrize("seed", range(3))
    def test_kernels_with_a_ring(self, seed):
        seeds, mask = random_flood(seed)
        at = np.flatnonzero((seeds > 0) & mask)
        ring = ((True, False), (False, True), (True, True))
        for sides in (ring, voronoi.ring_of(Region.whole(mask.shape), mask.shape)):
            expected = voronoi.NUMBA.flood(mask.view(np.uint8), at, sides)
            found = OpenCLKernels().flood(mask.view(np.uint8), at, sides)
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])
            assert found[0].dtype == found[1].dtype == np.int32

    def test_kernels_on_a_block(self):
        image = np.random.default_rng(8).random((20, 22, 24)).astype(np.float32)
        spec = voronoi.VoronoiSpec((1.0, 1.0, 1.0), (0.65, 0.65, 0.65), 0.3)
        write = Region((6, 8, 8), (12, 14, 16))
        flooded = write.expand((1, 1, 1), image.shape)
        read = flooded.expand(spec.filter_halo, image.shape)
        args = (image[read.slices], read, flooded, write, image.shape, spec)
        ours = voronoi.voronoi_otsu_block(*args)
        kernels = pickle.loads(pickle.dumps(OpenCLKernels()))
        theirs = voronoi.voronoi_otsu_block(*args, kernels=kernels)
        for field in ("labels", "names", "arrival", "is_open", "mask"):
            np.testing.assert_array_equal(getattr(theirs, field), getattr(ours, field))
        assert ours.is_open.any()


class TestRefusals:
    """Found before any device is looked for."""

    def test_not_3d(self):
        with pytest.raises(BadInputError, match="2 axes"):
            opencl.gaussian(np.zeros((3, 4)), (1, 1, 1))

    @pytest.mark.parametrize("sigma", [(1, 1), (-1, 1, 1), (np.nan, 1, 1)])
    def test_sigma(self, sigma):
        with pytest.raises(BadInputError, match="three voxel lengths"):
            opencl.gaussian(np.zeros((2, 3, 4)), sigma)

    def test_shapes(self):
        with pytest.raises(BadInputError, match=r"\(2, 3, 4\).*\(2, 3, 5\)"):
            opencl.flood(np.zeros((2, 3, 4), int), np.zeros((2, 3, 5)))

    @pytest.mark.parametrize("rank", [-1, opencl.MAX_RANK + 1])
    def test_ranks(self, rank):
        seeds = np.full((1, 2, 2), rank, np.int64)
        with pytest.raises(BadInputError, match=f"0..{opencl.MAX_RANK}"):
            opencl.flood(seeds, np.ones(seeds.shape))

    def test_buffers(self):
        too_many = np.broadcast_to(np.uint8(0), (2**11, 2**10, 2**10))
        with pytest.raises(BadInputError, match="int32"):
            opencl.spots(too_many)


class TestMissing:
    def test_no_package(self, monkeypatch):
        for name in ("pyclesperanto_prototype", "pyclesperanto"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(EnvironmentFailedError, match=r"'opencl' extra.*pocl-opencl-icd"):
            opencl.gaussian(np.zeros((2, 3, 4)), (1, 1, 1))

    @pytest.mark.parametrize("fails", [True, False])
    def test_no_device(self, monkeypatch, fails):
        def devices():
            if fails:
                raise KeyError("no platform")
            return []

        nothing = opencl_device.Package(
            *("nothing", None, (KeyError,), devices, None, None, None, None, None, 0)
        )
        monkeypatch.setattr(opencl_device, "_package", lambda: nothing)
        with pytest.raises(EnvironmentFailedError, match=r"'opencl' extra.*pocl-opencl-icd"):
            opencl.available_devices()

    def test_device_fails(self, monkeypatch):
        class Broken:
            def push(self, array):
                raise KeyError("out of memory")

        broken = opencl_device.Package(
            *("broken", Broken(), (KeyError,), lambda: ["gpu"], lambda *_: None),
            *(None, None, None, None, 0),
        )
        monkeypatch.setattr(opencl_device, "_package", lambda: broken)
        with pytest.raises(EnvironmentFailedError, match=r"spots of \(2, 3, 4\).*out of memory"):
            opencl.spots(np.zeros((2, 3, 4)))

    def test_import_needs_neither_package(self):
        code = (
            "import sys; import cellseg3d_dist.instances.opencl_kernels; "
            "sys.exit(any(m.startswith(('pyclesperanto', 'pyopencl')) for m in sys.modules))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
