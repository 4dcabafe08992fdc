"""The cut does not show: labels and cells of ``segment`` are those of the volume in one piece."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage as ndi
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segmenting import in_one_piece, run, store

from cellseg3d_dist import segmentation
from cellseg3d_dist.grid import Region

SHAPE = (29, 31, 37)
#: Block shapes, none of which divides the volume, and flood halos, most far too small.
CUTS = [
    ((9, 12, 14), 1),
    ((16, 16, 16), 3),
    ((6, 30, 17), 2),
    ((28, 8, 23), None),
    ((13, 14, 15), 1),
    ((20, 22, 25), 2),
]
DASK_CUTS = [((15, 13, 20), 2, 1), ((10, 17, 13), 1, 2)]
WHOLE = (64, 64, 64)


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    """The report has tests of its own; here it would only cost time."""
    monkeypatch.setattr(segmentation.running, "write_run_report", lambda *args, **kwargs: None)


def nuclei(shape=SHAPE, seed=0):
    """Bright blobs that touch, on a noisy background with zero blocks in a corner."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape)
    n = int(np.prod(shape) / 350)
    image[tuple(rng.integers(0, side, n) for side in shape)] = rng.uniform(0.5, 2, n)
    image = ndi.gaussian_filter(image, 1.6, mode="constant") * 60_000 + rng.random(shape) * 60
    image[:12, :12, :12] = 0
    return np.clip(image, 0, 60_000).astype(np.uint16)


def a_mask(shape=SHAPE):
    at = np.indices(shape).astype(float)
    centre = [n / 2 for n in shape]
    radius = sum(((a - c) / (0.45 * c * 2)) ** 2 for a, c in zip(at, centre, strict=True))
    return (radius < 1).astype(np.uint8)


REGION = {"region": "3:27,2:30,5:36"}
IN_REGION = Region((3, 2, 5), (27, 30, 36)).slices
FINE = {"spot_sigma": "0.8", "outline_sigma": "0.5"}
SCENARIOS = {
    "voronoi": FINE,
    "voronoi, plateaus": {"spot_sigma": "0", "outline_sigma": "0", "threshold": 900},
    "voronoi, region and sizes": FINE | REGION | {"min_volume": "20", "max_volume": "400"},
    "voronoi, mask": FINE | {"mask": True, "min_volume": "15um3"},
    "components 6": {"instances": "components", "outline_sigma": "0.5"},
    "components 18, sizes": {
        "instances": "components",
        "outline_sigma": "0",
        "threshold": 700.5,
        "connectivity": 18,
        "min_volume": "6",
        "max_volume": "300",
    },
    "components 26, region and mask": REGION
    | {"instances": "components", "outline_sigma": "0.4", "connectivity": 26, "mask": True},
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    return store(folder / "image.ome.zarr", nuclei()), store(folder / "mask.ome.zarr", a_mask())


def arrays_of(name):
    """Image and mask as a scenario sees them."""
    options = SCENARIOS[name]
    image, mask = nuclei(), a_mask().astype(bool)
    if "region" in options:
        image, mask = image[IN_REGION], mask[IN_REGION]
    return image, mask if options.get("mask") else None


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_cut_and_no_executor_shows(name, stored, tmp_path, client_of):
    options = dict(SCENARIOS[name])
    image, within = arrays_of(name)
    expected = in_one_piece(image, within, **{k: v for k, v in options.items() if k != "mask"})
    assert 10 < expected.max() < 5000
    if options.get("mask"):
        options["mask"] = stored[1]
    whole = run(stored[0], tmp_path / "whole", block_shape=WHOLE, **options)
    np.testing.assert_array_equal(whole.labels, expected)
    assert whole.labels.dtype == np.min_scalar_type(expected.max())
    assert whole.cells.column("label").to_pylist() == list(range(1, expected.max() + 1))
    volumes = np.bincount(expected.ravel())[1:]
    np.testing.assert_array_equal(whole.cells.column("volume").to_numpy(), volumes)
    cuts = CUTS if name in ("voronoi", "components 6") else CUTS[len(name) % 2 :: 2]
    for number, (block_shape, halo) in enumerate(cuts):
        out = tmp_path / str(number)
        run(stored[0], out, block_shape=block_shape, flood_halo=halo, **options).assert_same(whole)
    for block_shape, halo, workers in DASK_CUTS:
        run(
            stored[0], tmp_path / f"dask {workers}", block_shape=block_shape, flood_halo=halo,
            executor="dask", client=client_of(workers), workers=workers, **options,
        ).assert_same(whole)  # fmt: skip


def without_redo(*args):
    return replace(MAKE_PLAN(*args), redo=False)


MAKE_PLAN = segmentation.preparing.make_plan


def test_open_voxels_are_settled_by_exchange_where_no_redo_fits(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(segmentation.preparing, "make_plan", without_redo)
    options = {"spot_sigma": "3", "outline_sigma": "0", "threshold": 300}
    expected = in_one_piece(nuclei(), **options)
    for number, (block_shape, halo) in enumerate([((9, 11, 10), 1), ((16, 7, 20), 2)]):
        found = run(
            stored[0], tmp_path / str(number), block_shape=block_shape, flood_halo=halo, **options
        )
        np.testing.assert_array_equal(found.labels, expected)
        certificate = found.facts["certificate"]
        assert certificate["redone"] == 0
        assert certificate["open_first"] == certificate["open_after_redo"] > 1000
        assert certificate["open_last"] == 0
        assert certificate["rounds"] > 2


def test_a_serpentine_through_every_block_is_one_cell(tmp_path, client_of):
    from test_exchange import serpentine

    path = serpentine(9)
    image = np.zeros((9, 9, 9), np.uint16)
    image[tuple(path.T)] = 2000 - np.arange(len(path))
    source = store(tmp_path / "image.ome.zarr", image)
    options = {"spot_sigma": "0", "outline_sigma": "0", "threshold": 0.5, "flood_halo": 1}
    serial = run(source, tmp_path / "serial", block_shape=(4, 4, 5), **options)
    np.testing.assert_array_equal(serial.labels, image > 0)
    assert serial.facts["certificate"]["rounds"] > 5
    run(
        source, tmp_path / "dask", block_shape=(5, 6, 4), executor="dask", client=client_of(2),
        **options,
    ).assert_same(serial)  # fmt: skip


small = st.integers(1, 15)


@given(
    shape=st.tuples(small, small, small),
    block_shape=st.tuples(*[st.integers(5, 17)] * 3),
    seed=st.integers(0, 2**32 - 1),
    options=st.fixed_dictionaries(
        {
            "instances": st.sampled_from(["components", "voronoi-otsu"]),
            "connectivity": st.sampled_from([6, 18, 26]),
            "spot_sigma": st.sampled_from(["0", "0.5", "1"]),
            "outline_sigma": st.sampled_from(["0", "0.4"]),
            "threshold": st.sampled_from(["otsu", 0, 2.0, 3.5, 100]),
            "min_volume": st.sampled_from([None, "2", "5"]),
            "max_volume": st.sampled_from([None, "6", "40"]),
            "flood_halo": st.sampled_from([1, 2, None]),
        }
    ),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int16, np.float32, np.uint32]),
)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_volumes_and_options(tmp_path_factory, shape, block_shape, seed, options, dtype):
    folder = tmp_path_factory.mktemp("random")
    rng = np.random.default_rng(seed)
    image = ndi.gaussian_filter(rng.random(shape), rng.choice([0, 0.5])) * rng.choice([6, 200])
    image = np.round(image - (3 if np.dtype(dtype).kind != "u" else 0)).astype(dtype)
    source = store(folder / "image.ome.zarr", image)
    found = run(source, folder / "out", block_shape=block_shape, **options)
    np.testing.assert_array_equal(found.labels, in_one_piece(image, **options))
    whole = run(source, folder / "whole", block_shape=(16, 16, 16), **options)
    found.assert_same(whole)


@pytest.mark.parametrize("instances", ["components", "voronoi-otsu"])
def test_more_cells_than_a_type_of_labels_holds(instances, tmp_path):
    for n, dtype in ((255, np.uint8), (256, np.uint16)):
        image = np.zeros((14, 16, 18), np.uint8)
        at = np.argwhere(np.indices(image.shape).max(axis=0) >= 0)
        at = at[(at % 2 == 0).all(axis=1)][:n]
        image[tuple(at.T)] = 9
        found = run(
            store(tmp_path / f"{n}.ome.zarr", image), tmp_path / f"{n}", block_shape=(5, 6, 7),
            instances=instances, spot_sigma="0", outline_sigma="0", threshold=5,
        )  # fmt: skip
        assert found.labels.dtype == dtype
        assert sorted(np.unique(found.labels)) == list(range(n + 1))


@pytest.mark.parametrize("kind", ["constant", "zero", "one voxel", "line", "no voxel"])
@pytest.mark.parametrize("instances", ["components", "voronoi-otsu"])
def test_degenerate_volumes(kind, instances, tmp_path):
    image = {
        "constant": np.full((9, 8, 7), 5, np.uint8),
        "zero": np.zeros((9, 8, 7), np.uint16),
        "one voxel": np.full((1, 1, 1), 5, np.uint8),
        "line": np.arange(23, dtype=np.float32).reshape(1, 1, 23),
        "no voxel": np.zeros((4, 0, 5), np.uint8),
    }[kind]
    found = run(
        store(tmp_path / "image.ome.zarr", image), tmp_path / "out", block_shape=(4, 4, 5),
        instances=instances,
    )  # fmt: skip
    assert found.labels.shape == image.shape
    if image.size:
        np.testing.assert_array_equal(found.labels, in_one_piece(image, instances=instances))
    assert len(found.cells) == found.labels.max(initial=0)


def test_voxels_that_are_not_finite_count_as_zero(tmp_path):
    image = nuclei((15, 16, 17)).astype(np.float32)
    clean = image.copy()
    rng = np.random.default_rng(0)
    bad = rng.random(image.shape) < 0.01
    image[bad] = rng.choice([np.nan, np.inf, -np.inf], int(bad.sum()))
    clean[bad] = 0
    dirty = run(
        store(tmp_path / "dirty" / "i.zarr", image), tmp_path / "a", block_shape=(6, 7, 5), **FINE
    )
    other = run(
        store(tmp_path / "clean" / "i.zarr", clean), tmp_path / "b", block_shape=(9, 5, 8), **FINE
    )
    assert dirty.facts["survey"].pop("not_finite") == bad.sum()
    assert other.facts["survey"].pop("not_finite") == 0
    dirty.assert_same(other)


def test_channels_are_measured_alike_in_any_cut(tmp_path):
    first = nuclei((19, 20, 21))
    image = np.stack([first, nuclei((19, 20, 21), 1), first[::-1]]).astype(np.float32) * 1.37
    source = store(tmp_path / "image.ome.zarr", image, channels=("a", "b", "c"))
    answers = [
        run(source, tmp_path / str(i), block_shape=shape, flood_halo=1, channel=1, **FINE)
        for i, shape in enumerate([(64, 64, 64), (7, 8, 9), (10, 5, 13)])
    ]
    np.testing.assert_array_equal(answers[0].labels, in_one_piece(image[1], **FINE))
    for answer in answers[1:]:
        answer.assert_same(answers[0])


def test_an_array_in_memory_is_as_good_as_a_stored_one(stored, tmp_path):
    options = FINE | REGION | {"mask": stored[1], "block_shape": (11, 13, 17)}
    on_disk = run(stored[0], tmp_path / "disk", **options)
    in_memory = run(nuclei(), tmp_path / "memory", **options)
    in_memory.assert_same(on_disk, metadata=False)


def test_both_versions_of_ome_zarr_hold_the_same_labels(stored, tmp_path):
    new = run(stored[0], tmp_path / "05", block_shape=(16, 16, 16), **FINE)
    old = run(stored[0], tmp_path / "04", block_shape=(16, 16, 16), ome_zarr="0.4", **FINE)
    old.assert_same(new)


def assert_real(source, image, tmp_path, client, cuts, **options):
    """A real volume in several cuts, on two executors, against plain numpy."""
    expected = in_one_piece(image, **options)
    assert expected.max() > 10
    first, *others = cuts
    whole = run(source, tmp_path / "first", block_shape=first, **options)
    np.testing.assert_array_equal(whole.labels, expected)
    for number, block_shape in enumerate(others):
        out = tmp_path / str(number)
        run(source, out, block_shape=block_shape, flood_halo=4, **options).assert_same(whole)
    run(
        source, tmp_path / "dask", block_shape=cuts[-1], executor="dask", client=client, **options
    ).assert_same(whole)
    return whole


def test_a_crop_of_mouse_brain(shared_data, tmp_path, client_of):
    source = shared_data / "mouse_brain_mesospim" / "c5image.tif"
    image = tifffile.imread(source)
    cuts = [(128, 128, 128), (50, 40, 37), (29, 61, 47)]
    options = {"voxel_size": (5, 5.26, 5.26), "spot_sigma": "1", "outline_sigma": "0.65"}
    assert_real(str(source), image, tmp_path, client_of(2), cuts, **options)


def test_an_embryo_with_flat_voxels(shared_data, tmp_path, client_of):
    source = shared_data / "mouse_embryo_bbbc050" / "images" / "Emb05_t401.tif"
    image = tifffile.imread(source)[5:45, 60:190, 50:180].copy()
    cuts = [(64, 192, 192), (17, 43, 50), (11, 64, 37)]
    options = {"voxel_size": (2.0, 0.8, 0.8), "spot_sigma": "3.2um", "outline_sigma": "1.6um"}
    path = store(tmp_path / "embryo.ome.zarr", image, (2.0, 0.8, 0.8))
    assert_real(path, image, tmp_path, client_of(1), cuts, **options)


def test_a_part_of_a_light_sheet_brain(shared_data, tmp_path, client_of):
    source = shared_data / "mouse_brain_cellfinder" / "crop_planes_ch0.tif"
    image = tifffile.imread(source)
    region = Region((2, 50, 60), (image.shape[0] - 1, 150, 170))
    options = {"voxel_size": (5, 2, 2), "spot_sigma": "4um", "outline_sigma": "2um"}
    path = store(tmp_path / "brain.ome.zarr", image, (5, 2, 2), (16, 64, 64))
    part = image[region.slices].copy()
    expected = in_one_piece(part, **options)
    text = ",".join(f"{a}:{b}" for a, b in zip(region.start, region.stop, strict=True))
    found = [
        run(path, tmp_path / str(n), block_shape=cut, flood_halo=3, region=text, **options)
        for n, cut in enumerate([(9, 50, 47), (13, 91, 61)])
    ]
    np.testing.assert_array_equal(found[0].labels, expected)
    found[1].assert_same(found[0])
    run(
        path, tmp_path / "dask", block_shape=(7, 64, 64), region=text, executor="dask",
        client=client_of(2), **options,
    ).assert_same(found[0])  # fmt: skip
