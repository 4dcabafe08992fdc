"""The star representation: rays, targets, loss, and labels back from them."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial import ConvexHull

from cellseg3d_dist.errors import BadInputError, ConfigError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.instances.spots import names_of_seeds
from cellseg3d_dist.representations import decoding_parameters, representation
from cellseg3d_dist.representations.polyhedra import paint, stencil
from cellseg3d_dist.representations.rays import faces_of, fibonacci_rays
from cellseg3d_dist.representations.star import Star, StarParameters

torch.set_num_threads(1)

ISOTROPIC = (1.0, 1.0, 1.0)
COARSE_Z = (3.0, 1.0, 1.0)


def ellipsoid(shape, centre, radii, voxel_size=ISOTROPIC):
    """Voxels whose centre is inside; centre in voxels, radii in units."""
    away = [
        (np.arange(n).reshape([-1 if a == axis else 1 for a in range(3)]) - centre[axis])
        * voxel_size[axis]
        / radii[axis]
        for axis, n in enumerate(shape)
    ]
    return sum(a**2 for a in away) <= 1


def packed(seed, shape, voxel_size, radii=(5, 8), tries=300, margin=0):
    """Random ellipsoids that do not share voxels but may touch; cut by faces if margin is 0."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int64)
    n = 0
    for _ in range(tries):
        centre = [
            rng.uniform(margin / s, m - 1 - margin / s)
            for s, m in zip(voxel_size, shape, strict=True)
        ]
        inside = ellipsoid(shape, centre, rng.uniform(*radii, 3), voxel_size)
        if inside.sum() >= 40 and not labels[inside].any():
            n += 1
            labels[inside] = 1000 - n
    return labels, n


def stored(star: Star, target):
    """What a perfect network's output is stored as."""
    share = np.concatenate((target[:1], np.clip(target[1:] / star.max_distance, 0, 1)))
    return np.floor(255 * share + 0.5).astype(np.uint8)


def ious(labels, found):
    """IoU of every true object with the one that covers most of it."""
    scores = []
    for name in np.unique(labels[labels > 0]):
        true = labels == name
        counts = np.bincount(found[true])
        counts[0] = 0
        best = int(counts.argmax())
        scores.append(counts[best] / (true | (found == best)).sum() if best else 0.0)
    return np.array(scores)


class TestRays:
    @pytest.mark.parametrize("n", [4, 7, 32, 96])
    def test_even_all_around(self, n):
        rays = np.array(fibonacci_rays(n))
        assert np.allclose(np.linalg.norm(rays, axis=1), 1, atol=1e-5)
        assert np.abs(rays.mean(axis=0)).max() < 1 / n
        faces = faces_of(fibonacci_rays(n))
        assert len(faces) == 2 * n - 4
        assert len(np.unique(faces)) == n
        if n >= 32:
            nearest = np.sort(np.linalg.norm(rays[:, None] - rays, axis=2), axis=1)[:, 1]
            assert nearest.max() < 1.5 * nearest.min()

    def test_a_card_gives_the_same_rays(self):
        star = Star(n_rays=12, voxel_size=COARSE_Z, max_distance=20.0)
        options = json.loads(json.dumps(dataclasses.asdict(star)))
        assert representation("star", **options) == star
        assert representation("star", n_rays=12).rays == star.rays
        turned = [[x, z, y] for z, y, x in star.rays]
        assert representation("star", n_rays=12, rays=turned).rays == tuple(map(tuple, turned))

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"n_rays": 3}, "n_rays 3"),
            ({"n_rays": 40_000}, "n_rays 40000"),
            ({"n_rays": 5, "rays": fibonacci_rays(6)}, "6 rays given"),
            ({"n_rays": 4, "rays": [(0, 0, 1)] * 4}, "do not span"),
            ({"n_rays": 4, "rays": [(0, 1, 1), (0, 0, 1), (1, 0, 0), (0, 1, 0)]}, "around"),
            ({"n_rays": 4, "rays": [(1, 2)] * 4}, "three numbers"),
            ({"voxel_size": (1.0, 0.0, 1.0)}, "voxel_size"),
            ({"voxel_size": (1.0, 1.0)}, "voxel_size"),
            ({"voxel_size": 1.0}, "voxel_size"),
            ({"rays": 7}, "three numbers"),
            ({"max_distance": 0}, "max_distance"),
            ({"max_distance": float("nan")}, "max_distance"),
            ({"max_distance": "16"}, "max_distance"),
            ({"distance_weight": -1}, "distance_weight"),
            ({"anisotropy": 2}, "no option 'anisotropy'"),
        ],
    )
    def test_options_that_cannot_be(self, options, match):
        with pytest.raises(ConfigError, match=match):
            representation("star", **options)

    @pytest.mark.parametrize("values", [{"threshold": 1.5}, {"overlap": -0.1}, {"min_voxels": 0}])
    def test_parameters_that_cannot_be(self, values):
        with pytest.raises(ConfigError, match=f"star: {next(iter(values))}"):
            decoding_parameters(Star(), values)

    def test_a_stencil_that_is_too_large_is_refused(self):
        with pytest.raises(ConfigError, match="max_distance 300"):
            Star(max_distance=300.0).stencil(ISOTROPIC)

    def test_halos(self):
        star = Star(max_distance=10.5, voxel_size=(2.0, 1.0, 1.0))
        assert star.encode_halo == 21
        geometry = star.stencil((2.0, 1.0, 1.0))
        assert geometry.half == (5, 10, 10)
        assert geometry.overlap_halo == (10, 21, 21)
        assert (star.n_outputs, len(star.channels)) == (33, 33)


class TestSurface:
    @pytest.mark.parametrize("spacing", [ISOTROPIC, (2.5, 1.0, 1.0)])
    def test_a_direction_is_between_the_corners_of_its_face(self, spacing):
        rays = fibonacci_rays(24)
        geometry = stencil(rays, spacing, 9.0)
        directions = np.array(rays)
        hull = ConvexHull(directions)
        rng = np.random.default_rng(0)
        distances = rng.integers(0, 256, (1, 24)).astype(np.uint8)
        centre = np.array([geometry.half], np.int64)
        painted = paint(Region.whole(geometry.needed.shape), centre, distances, geometry)
        for offset in np.ndindex(painted.shape):
            away = (np.array(offset) - geometry.half) * spacing
            radius = np.linalg.norm(away)
            if radius == 0:
                assert painted[offset] == 1
                continue
            # the face a ray leaves the hull through
            hit = hull.equations[:, :3] @ away / -hull.equations[:, 3]
            corners = hull.simplices[hit.argmax()]
            weights = np.linalg.solve(directions[corners].T, away)
            surface = weights @ distances[0, corners] / weights.sum() * 9.0 / 255
            if abs(surface - radius) > 0.02:
                assert bool(painted[offset]) == (radius < surface)

    def test_equal_distances_are_a_ball(self):
        geometry = stencil(fibonacci_rays(32), ISOTROPIC, 10.0)
        painted = paint(
            Region.whole((21, 21, 21)),
            np.array([[10, 10, 10]]),
            np.full((1, 32), 204, np.uint8),
            geometry,
        )
        assert np.array_equal(painted > 0, ellipsoid((21,) * 3, (10,) * 3, (8.0,) * 3))


class TestTargets:
    @pytest.mark.parametrize("voxel_size", [ISOTROPIC, COARSE_Z])
    @pytest.mark.parametrize("radii", [(9.0, 9.0, 9.0), (7.0, 12.0, 9.0)])
    def test_distances_are_those_of_the_ellipsoid(self, voxel_size, radii):
        shape = tuple(int(2 * 14 / s) + 1 for s in voxel_size)
        centre = np.array([n // 2 for n in shape])
        labels = ellipsoid(shape, centre, radii, voxel_size).astype(np.uint16)
        star = Star(voxel_size=voxel_size, max_distance=30.0)
        target = star.encode(labels, voxel_size)
        rays, axes = np.array(star.rays), np.array(radii)
        # nearer the surface a ray may graze a stair of voxels
        for voxel in np.argwhere(target[0] >= 0.5):
            # |(p + t u) / radii| = 1
            p = (voxel - centre) * voxel_size / axes
            u = rays / axes
            a, b, c = (u * u).sum(1), u @ p, p @ p - 1
            exact = (-b + np.sqrt(b * b - a * c)) / a
            normal = (p + exact[:, None] * u) / axes
            steep = np.abs((normal * rays).sum(1)) / np.linalg.norm(normal, axis=1)
            # an error of one voxel across the surface is longer along a slanted ray
            error = np.abs(target[1:, *voxel] - exact) * steep
            assert error.max() <= max(voxel_size)

    @pytest.mark.parametrize("spacing", [ISOTROPIC, (2.0, 1.5, 1.0)])
    def test_distances_are_where_a_march_leaves_the_object(self, spacing):
        labels = np.random.default_rng(0).integers(0, 2, (5, 6, 7)) * 5
        labels[1:4, 1:5, 1:6] = 2
        star = Star(n_rays=9, voxel_size=spacing, max_distance=4.0)
        target = star.encode(labels, spacing)
        step = 1e-3
        march = (np.arange(1, 4000) * step)[:, None] * np.array(star.rays)[:, None]
        for voxel in np.argwhere(labels):
            at = np.floor(voxel + march / np.array(spacing) + 0.5).astype(int)
            outside = ((at < 0) | (at >= labels.shape)).any(axis=2)
            at = np.clip(at, 0, np.array(labels.shape) - 1)
            left = outside | (labels[at[..., 0], at[..., 1], at[..., 2]] != labels[tuple(voxel)])
            exact = np.where(left.any(axis=1), (left.argmax(axis=1) + 1) * step, 4.0)
            assert np.abs(target[1:, *voxel] - exact).max() < 2 * step

    @pytest.mark.parametrize("voxel_size", [ISOTROPIC, COARSE_Z])
    def test_probability_is_the_depth_by_the_deepest(self, voxel_size):
        labels, n = packed(0, (16, 40, 40), voxel_size)
        target = Star().encode(labels, voxel_size)
        assert n > 5
        for name in np.unique(labels[labels > 0]):
            depth = ndimage.distance_transform_edt(np.pad(labels == name, 1), sampling=voxel_size)
            depth = depth[1:-1, 1:-1, 1:-1]
            inside = labels == name
            assert np.allclose(target[0][inside], (depth / depth.max())[inside], atol=1e-5)
        assert not target[:, labels == 0].any()

    def test_the_longest_caps(self):
        target = Star(max_distance=3.0).encode(np.ones((20, 20, 20), np.uint8), ISOTROPIC)
        assert target[1:, 10, 10, 10].tolist() == [3.0] * 32
        assert target[1:].max() == 3

    @pytest.mark.parametrize("name", [1, 2**40, 2**63 + 5])
    def test_one_voxel(self, name):
        labels = np.zeros((3, 4, 5), np.uint64)
        labels[1, 2, 3] = name
        target = Star().encode(labels, ISOTROPIC)
        assert target.shape == (33, 3, 4, 5)
        assert target.dtype == np.float32
        assert target[0, 1, 2, 3] == 1
        assert (target[1:, 1, 2, 3] >= 0.5).all()
        assert (target[1:, 1, 2, 3] <= math.sqrt(0.75) + 1e-6).all()
        assert np.count_nonzero(target[0]) == 1

    def test_a_patch_and_its_halo_are_a_part_of_the_whole(self):
        labels, _ = packed(1, (60, 60, 60), ISOTROPIC, radii=(3, 5))
        star = Star(max_distance=6.0)
        whole = star.encode(labels, ISOTROPIC)
        patch = Region((20, 15, 24), (32, 30, 40))
        read = patch.expand((star.encode_halo,) * 3, (60, 60, 60))
        part = star.encode(labels[read.slices], ISOTROPIC)
        assert np.array_equal(
            part[(slice(None), *patch.within(read).slices)], whole[(slice(None), *patch.slices)]
        )


class TestRoundTrip:
    @pytest.mark.parametrize("voxel_size", [ISOTROPIC, COARSE_Z])
    def test_objects_inside(self, voxel_size):
        shape = tuple(int(80 / s) for s in voxel_size)
        labels, n = packed(2, shape, voxel_size, margin=8)
        star = Star(voxel_size=voxel_size, max_distance=12.0)
        found = star.decode(
            stored(star, star.encode(labels, voxel_size)), voxel_size, star.parameters
        )
        scores = ious(labels, found)
        assert n > 15
        assert found.max() == n
        assert scores.min() > 0.8
        assert scores.mean() > 0.88

    @pytest.mark.parametrize("voxel_size", [ISOTROPIC, COARSE_Z])
    def test_objects_cut_by_faces(self, voxel_size):
        shape = tuple(int(50 / s) for s in voxel_size)
        labels, n = packed(3, shape, voxel_size)
        star = Star(voxel_size=voxel_size, max_distance=12.0, n_rays=96)
        found = star.decode(
            stored(star, star.encode(labels, voxel_size)), voxel_size, star.parameters
        )
        assert found.max() == n
        assert ious(labels, found).min() > 0.8

    def test_voxels_of_another_size(self):
        # trained on fine voxels, decoded on coarse ones: distances stay physical
        labels, n = packed(4, (30, 60, 60), (2.0, 1.0, 1.0), margin=8)
        star = Star(voxel_size=ISOTROPIC, max_distance=12.0)
        prediction = stored(star, star.encode(labels, (2.0, 1.0, 1.0)))
        found = star.decode(prediction, (2.0, 1.0, 1.0), star.parameters)
        assert found.max() == n
        assert ious(labels, found).min() > 0.8
        micrometres = Star(voxel_size=(0.5, 0.5, 0.5), max_distance=12.0)
        assert np.array_equal(
            micrometres.decode(prediction, (1.0, 0.5, 0.5), star.parameters), found
        )

    @pytest.mark.parametrize("shape", [(0, 4, 4), (1, 1, 1), (5, 6, 7)])
    def test_nothing(self, shape):
        star = Star()
        target = star.encode(np.zeros(shape, np.int32), ISOTROPIC)
        found = star.decode(stored(star, target), ISOTROPIC, star.parameters)
        assert found.shape == shape
        assert found.dtype == np.uint32
        assert not found.any()

    def test_single_voxels(self):
        labels = np.zeros((5, 6, 7), np.uint8)
        labels[0, 0, 0] = labels[2, 3, 3] = 9
        labels[4, 5, 6] = 4
        star = Star()
        found = star.decode(
            stored(star, star.encode(labels, ISOTROPIC)), ISOTROPIC, star.parameters
        )
        assert np.array_equal(found > 0, labels > 0)
        assert found.max() == 3

    def test_labels_come_in_the_order_of_names(self):
        labels, n = packed(5, (40, 40, 40), ISOTROPIC)
        star = Star()
        prediction = stored(star, star.encode(labels, ISOTROPIC))
        found = star.decode(prediction, ISOTROPIC, star.parameters)
        names = names_of_seeds(np.arange(labels.size), Region.whole((40, 40, 40)), (40, 40, 40))
        names = names.reshape(labels.shape)
        centres = [
            names[(found == i) & (prediction[0] == prediction[0][found == i].max())].min()
            for i in range(1, n + 1)
        ]
        assert centres == sorted(centres)

    def test_small_labels_are_dropped(self):
        labels, n = packed(6, (40, 40, 40), ISOTROPIC)
        star = Star()
        prediction = stored(star, star.encode(labels, ISOTROPIC))
        found = star.decode(prediction, ISOTROPIC, star.parameters)
        counts = np.bincount(found.ravel())[1:]
        least = int(np.median(counts)) + 1
        large = star.decode(prediction, ISOTROPIC, StarParameters(min_voxels=least))
        assert 0 < large.max() < n
        assert np.bincount(large.ravel())[1:].tolist() == counts[counts >= least].tolist()
        assert np.array_equal(large > 0, np.isin(found, np.flatnonzero(counts >= least) + 1))

    def test_other_rays_are_refused(self):
        with pytest.raises(BadInputError, match="33 channels, 9 expected"):
            Star(n_rays=8).decode(np.zeros((33, 2, 2, 2), np.uint8), ISOTROPIC, StarParameters())


class TestLoss:
    def case(self, seed=0):
        star = Star(n_rays=6, max_distance=8.0)
        labels, _ = packed(seed, (12, 14, 16), ISOTROPIC, radii=(3, 5))
        target = torch.from_numpy(star.encode(labels, ISOTROPIC))[None].repeat(2, 1, 1, 1, 1)
        generator = torch.Generator().manual_seed(seed)
        output = torch.randn(target.shape, generator=generator) * 3
        valid = (torch.rand((2, 1, 12, 14, 16), generator=generator) < 0.7).float()
        return star, output, target, valid

    def test_as_the_formula(self):
        star, output, target, valid = self.case()
        o, t, v = (a.numpy().astype(np.float64) for a in (output, target, valid))
        p = 1 / (1 + np.exp(-o[:, :1]))
        entropy = -(t[:, :1] * np.log(p) + (1 - t[:, :1]) * np.log(1 - p))
        weight = t[:, :1] * v
        error = np.abs(o[:, 1:] - t[:, 1:]).mean(1, keepdims=True)
        expected = (entropy * v).sum() / v.sum() + 0.2 * (weight * error).sum() / weight.sum()
        assert star.loss(output, target, valid).item() == pytest.approx(expected, rel=1e-5)

    def test_what_is_not_valid_does_not_matter(self):
        star, output, target, valid = self.case()
        wrong = torch.where(valid > 0, output, torch.full_like(output, float("nan")))
        other = torch.where(valid > 0, target, torch.full_like(target, 7.0))
        wrong.requires_grad_()
        loss = star.loss(wrong, other, valid)
        assert loss.item() == pytest.approx(star.loss(output, target, valid).item())
        loss.backward()
        assert torch.isfinite(wrong.grad).all()
        assert not wrong.grad[(valid == 0).expand_as(wrong)].any()
        assert star.loss(output, target, torch.ones_like(valid)).item() == pytest.approx(
            star.loss(output, target, None).item()
        )

    def test_nothing_valid_or_no_object(self):
        star, output, target, valid = self.case()
        output.requires_grad_()
        nothing = star.loss(output, target, torch.zeros_like(valid))
        nothing.backward()
        assert nothing.item() == 0
        assert not output.grad.any()
        empty = star.loss(output, torch.zeros_like(target), None)
        assert torch.isfinite(empty)

    def test_distances_count_by_probability(self):
        star, _, target, _ = self.case()
        best = target.clone()
        best[:, :1] = torch.logit(target[:, :1], eps=1e-6)
        in_background = best.clone()
        in_background[:, 1:] += (target[:, :1] == 0) * 5.0
        assert star.loss(in_background, target, None) == star.loss(best, target, None)
        inside = best.clone()
        inside[:, 1:] += (target[:, :1] > 0) * 5.0
        more = star.loss(inside, target, None) - star.loss(best, target, None)
        assert more.item() == pytest.approx(0.2 * 5, rel=1e-4)

    def test_half_precision(self):
        star, output, target, valid = self.case()
        half = star.loss(output.to(torch.bfloat16), target, valid)
        assert half.dtype == torch.float32
        assert half.item() == pytest.approx(star.loss(output, target, valid).item(), rel=1e-2)

    def test_activation(self):
        star, output, _, _ = self.case()
        stored_values = star.activate(output * 10)
        assert stored_values.shape == output.shape
        assert stored_values.min() >= 0
        assert stored_values.max() <= 1
        assert torch.equal(stored_values[:, :1], (output[:, :1] * 10).sigmoid())
        assert torch.equal(stored_values[:, 1:], (output[:, 1:] * 10 / 8).clamp(0, 1))

    def test_learning_finds_the_objects(self):
        # the output itself is what is learned: loss, activation and decoding fit together
        star = Star(n_rays=16, max_distance=8.0)
        labels, n = packed(7, (16, 18, 20), ISOTROPIC, radii=(4, 6))
        target = torch.from_numpy(star.encode(labels, ISOTROPIC))[None]
        output = torch.zeros_like(target, requires_grad=True)
        optimiser = torch.optim.Adam([output], lr=0.5)
        for _ in range(40):
            optimiser.zero_grad()
            star.loss(output, target, None).backward()
            optimiser.step()
        prediction = (255 * star.activate(output.detach())[0] + 0.5).floor().to(torch.uint8)
        found = star.decode(prediction.numpy(), ISOTROPIC, star.parameters)
        assert found.max() == n
        assert ious(labels, found).min() > 0.6
