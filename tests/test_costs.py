"""The model of cost: rates are recovered from runs that follow them, and runs tell their own."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.costs import CostModel, RunRecord, fit
from cellseg3d_dist.costs.fitting import STEPS, ideal
from cellseg3d_dist.costs.records import StageRecord, halos_of, work_share
from cellseg3d_dist.costs.work import cut_share, family, read_share
from cellseg3d_dist.engine.merge import MOST_FRAGMENTS
from cellseg3d_dist.errors import ConfigError, OutputError
from cellseg3d_dist.grid import BlockGrid
from cellseg3d_dist.segmentation import estimate

INTENSITY = {"model": "intensity", "voxel_size": (1, 1, 1), "memory_limit": "4GB"}
SMALL, MIDDLE, LARGE = (256, 384, 384), (512, 768, 768), (1024, 1536, 1536)
# busy seconds of a process's first block, of a voxel read; seconds of a start; overhead
STAGES = {"survey": (1.5, 4e-8, 0.2, 1.05), "label": (0.4, 2e-7, 0.1, 1.1)}


def planned(shape, block_shape=(128, 128, 128), workers=2):
    options = INTENSITY | {"block_shape": block_shape, "workers": workers}
    return estimate(shape=shape, **options).plan


def run_of(plan, stages=STAGES, share=0.5, per_block=0.0, driver=(0.5, 2e-6)):
    """What a machine of known rates would note of a planned run."""
    halos = halos_of([vars(stage) for stage in plan.stages])
    voxels, n, records = math.prod(plan.shape), plan.workers, []
    for name, (warm, per_work, start, overhead) in stages.items():
        part = share if name == "label" else 1.0
        work = voxels * part * work_share(name, plan.shape, plan.block_shape, halos)
        blocks = round(plan.n_blocks * part)
        usual = (per_block * blocks + per_work * work) / blocks
        busy = usual * blocks + warm * n
        records.append(
            StageRecord(
                name, 1, blocks, round(voxels * part),
                start + overhead * ideal(busy, blocks, n), busy, n, n * (warm + usual),
            )
        )  # fmt: skip
    cells = voxels * 1e-2
    pieces = 1 + 5 * cut_share(plan.block_shape, plan.shape)
    steps = {
        "merge": driver[0] + driver[1] * cells * pieces,
        "report": 3.0 + STEPS["report"][1] * cells,
        "workers": 2.0,
        "other": 1.0 + STEPS["other"][1] * plan.n_blocks,
    }
    return RunRecord(
        name="run", version="1", deciding={"model": "intensity"}, shape=plan.shape,
        block_shape=plan.block_shape, workers=n, halos=halos, stages=tuple(records), steps=steps,
        seconds=sum(r.seconds for r in records) + sum(steps.values()), cells=round(cells),
        fragments=round(cells * pieces), worker_bytes=int(0.8 * plan.peak.n_bytes),
        projected_bytes=plan.peak.n_bytes, driver_bytes=2 * 2**30,
        disk={
            "labels.ome.zarr": {"bytes": voxels // 20, "files": plan.n_blocks},
            "cells.parquet": {"bytes": round(90 * cells), "files": 1},
            "work": {"bytes": voxels // 8, "files": 4 * plan.n_blocks},
            "report.html": {"bytes": 500_000, "files": 1},
        },
        memory_limit=plan.memory_limit,
    )  # fmt: skip


low, rate = st.floats(0, 1), st.floats(1, 10)


@settings(max_examples=15, deadline=None)
@given(st.tuples(low, rate, low, rate), st.integers(1, 8), st.floats(0.2, 1))
def test_rates_are_recovered_and_a_larger_run_is_predicted(factors, workers, share):
    a, b, c, d = factors
    stages = {
        name: (a * warm, b * per_work, c * start, 1 + d * (overhead - 1))
        for name, (warm, per_work, start, overhead) in STAGES.items()
    }
    plans = [planned(shape, workers=2) for shape in (SMALL, MIDDLE)]
    model = fit(*(run_of(plan, stages, share) for plan in plans))
    for rates in model.rates.stages:
        warm, per_work, start, overhead = stages[rates.stage]
        assert rates.warm == pytest.approx(warm)
        assert rates.per_work == pytest.approx(per_work)
        assert rates.start == pytest.approx(start, rel=1e-3, abs=1e-6)
        assert rates.overhead == pytest.approx(overhead, rel=1e-4)
    large = planned(LARGE, workers=workers)
    cost, truth = model.predict(large), run_of(large, stages, share)
    assert cost.hours.expected * 3600 == pytest.approx(truth.seconds, rel=0.01)
    assert cost.hours.low < cost.hours.expected < cost.hours.high
    assert cost.cells == pytest.approx(truth.cells, rel=0.01)
    assert cost.fragments == pytest.approx(truth.fragments, rel=0.02)


def test_blocks_of_two_sizes_tell_what_a_block_costs():
    how = {"per_block": 0.3, "driver": (0.5, STEPS["merge"][1])}
    plans = [planned(MIDDLE, (side,) * 3) for side in (64, 128)]
    model = fit(*(run_of(plan, **how) for plan in plans))
    for rates in model.rates.stages:
        assert rates.per_block == pytest.approx(0.3, rel=1e-3)
    large = planned(LARGE, (192,) * 3)
    truth = run_of(large, **how).seconds
    assert model.predict(large).hours.expected * 3600 == pytest.approx(truth, rel=0.02)


@pytest.mark.parametrize("shape", [SMALL, MIDDLE])
def test_one_run_predicts_itself_and_says_what_it_assumes(shape):
    plan = planned(shape)
    run = run_of(plan)
    cost = fit(run).predict(plan)
    assert cost.hours.expected * 3600 == pytest.approx(run.seconds, rel=1e-6)
    assert cost.worker_bytes.expected == pytest.approx(run.worker_bytes)
    assert cost.driver_bytes.expected == pytest.approx(run.driver_bytes)
    parts = run.disk.values()
    assert cost.disk_bytes.expected == pytest.approx(sum(part["bytes"] for part in parts))
    assert cost.files == sum(part["files"] for part in parts)
    assert any("one size was measured" in note for note in cost.notes)


def test_more_voxels_cost_more_and_more_workers_less_time():
    model = fit(run_of(planned(SMALL)), run_of(planned(MIDDLE)))
    shapes = [SMALL, MIDDLE, (700, 900, 1100), LARGE, (2048, 2048, 2048), (4000, 8000, 10000)]
    costs = [model.predict(planned(shape)) for shape in shapes]
    for one, other in itertools.pairwise(costs):
        for key in ("hours", "driver_bytes", "kept_bytes", "disk_bytes"):
            for end in ("low", "expected", "high"):
                assert getattr(getattr(one, key), end) <= getattr(getattr(other, key), end)
        assert one.files < other.files
    huge = planned(shapes[-1])
    hours = [model.predict(huge, workers=n).hours.expected for n in (1, 2, 8, 64, 512, 4096)]
    assert hours == sorted(hours, reverse=True)
    # the driver's part and what it can send off do not get less
    blocks = model.predict(huge, workers=4096).stages[0].blocks
    assert hours[-1] * 3600 > len(STAGES) * 0.4 * blocks / 600


def test_memory_is_never_predicted_above_what_is_projected():
    run = run_of(planned(SMALL))
    for used in (0.3, 1.0, 1.7):
        model = fit(replace(run, worker_bytes=int(used * run.projected_bytes)))
        for side in (64, 128, 192):
            plan = planned(LARGE, (side,) * 3)
            found = model.predict(plan).worker_bytes
            assert found.low <= found.expected <= found.high == plan.peak.n_bytes


def test_memory_of_the_driver_stops_growing_where_the_workers_merge():
    model = fit(run_of(planned(SMALL)))
    plan = planned(SMALL, (256, 256, 256))
    shapes = [(n, 40_000, 40_000) for n in (1000, 4000)]
    costs = [model.predict(replace(plan, shape=shape, n_blocks=1000)) for shape in shapes]
    assert min(cost.fragments for cost in costs) > MOST_FRAGMENTS
    assert costs[0].driver_bytes == costs[1].driver_bytes
    assert any("merged on the workers" in note for note in costs[0].notes)


def test_a_known_share_of_occupied_blocks_replaces_the_measured_one():
    plan = planned(LARGE)
    model = fit(run_of(planned(SMALL), share=1.0), run_of(planned(MIDDLE), share=1.0))
    full, half = (model.predict(plan, occupied=share) for share in (1.0, 0.5))
    assert half.cells == pytest.approx(full.cells / 2, rel=1e-3)
    for one, other in zip(full.stages, half.stages, strict=True):
        assert other.blocks == one.blocks // (2 if one.stage == "label" else 1)
    for share in (0.0, -1.0, 1.5):
        with pytest.raises(ConfigError, match=r"occupied .* above 0 and at most 1"):
            model.predict(plan, occupied=share)
    with pytest.raises(ConfigError, match="workers 0 must be at least 1"):
        model.predict(plan, workers=0)


def test_round_trip(tmp_path):
    model = fit(run_of(planned(SMALL)), run_of(planned(MIDDLE)))
    model.save(tmp_path / "rates.json")
    again = fit(tmp_path / "rates.json")
    assert isinstance(again, CostModel)
    assert again == model
    (tmp_path / "rates.json").write_text('{"records": [{}]}')
    with pytest.raises(ConfigError, match="no saved model of cost"):
        fit(tmp_path / "rates.json")


def test_runs_of_other_methods_are_not_fitted_together():
    one = run_of(planned(SMALL))
    other = replace(one, deciding={"model": "nuclei-bcd"})
    with pytest.raises(ConfigError, match=r"made with model intensity, .* with nuclei-bcd"):
        fit(one, other)
    with pytest.raises(ConfigError, match="at least one finished run"):
        fit()


axis = st.integers(1, 40)


@settings(max_examples=40, deadline=None)
@given(*(st.tuples(axis, axis, axis) for _ in range(2)), st.tuples(*[st.integers(0, 12)] * 3))
def test_voxels_read_are_those_of_all_blocks(shape, block_shape, halo):
    grid = BlockGrid(shape, block_shape)
    read = sum(grid.read_region(block, halo).size for block in grid.blocks())
    assert read_share(shape, block_shape, halo) == pytest.approx(read / math.prod(shape))


def test_levels_and_rounds_are_one_family():
    names = ["pyramid-1", "pyramid-12", "exchange-3", "survey-foreground", "label"]
    assert [family(name) for name in names] == [
        "pyramid", "pyramid", "exchange", "survey-foreground", "label"
    ]  # fmt: skip


def test_patches_are_those_of_all_blocks():
    from cellseg3d_dist.networks.predictor import Tiling
    from cellseg3d_dist.networks.weights import load_model

    shape, block_shape, size = (70, 90, 200), (64, 32, 64), (2.0, 1.0, 1.0)
    plan = estimate(shape=shape, voxel_size=size, block_shape=block_shape).plan
    tiling = Tiling.from_card(load_model("nuclei-wnet3d").card, shape, size)
    regions = [block.write_region for block in BlockGrid(shape, block_shape).blocks()]
    wanted = [tiling.network_region(region) for region in regions]
    assert plan.patches == sum(tiling.lattice.patches_of(region) for region in wanted)
    run = replace(
        run_of(planned(SMALL)), patches=500, stages=(StageRecord("predict", 1, 8, 10**6, 99, 198),)
    )
    (stage,) = fit(run).rates.stages
    patches = 500 * 10**6 / math.prod(SMALL)
    assert stage.per_work * patches == pytest.approx(198)


# a real run


def test_a_run_tells_what_it_took(finished):
    status = json.loads((finished / "run" / "run.json").read_text())
    run = RunRecord.of(finished / "run")
    assert RunRecord.of(finished / "run" / "run.json").stages == run.stages
    assert RunRecord.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    assert run.cells == status["facts"]["cells"]
    assert run.dtype == "uint16"
    assert sum(s.seconds for s in run.stages) + sum(run.steps.values()) == pytest.approx(
        run.seconds, rel=0.05, abs=0.05
    )
    for stage in run.stages:
        assert 0 < stage.busy_seconds <= run.workers * stage.seconds + 0.05
    assert run.worker_bytes > 0
    assert {"labels.ome.zarr", "cells.parquet", "work", "journal"} <= run.disk.keys()
    found = sum(p.stat().st_size for p in (finished / "run" / "labels.ome.zarr").rglob("*"))
    assert 0 < run.disk["labels.ome.zarr"]["bytes"] <= found


def test_estimate_of_an_image_by_a_run_of_it(finished):
    options = {"model": "intensity", "spot_sigma": 1, "outline_sigma": 1, "executor": "serial"}
    found = estimate(finished / "image.zarr", [finished / "run"], **options)
    run = RunRecord.of(finished / "run")
    assert found.plan.memory_limit == run.memory_limit
    assert found.cost.cells == run.cells
    assert found.cost.hours.expected * 3600 == pytest.approx(run.seconds, rel=0.05, abs=0.05)
    assert json.loads(json.dumps(found.to_dict()))["cost"]["workers"] == 1
    other = estimate(finished / "image.zarr", [finished / "run"], **options | {"spot_sigma": 2})
    assert "measured with spot_sigma 1, planned with 2" in other.cost.notes


def edited(folder: Path, **changes):
    status = json.loads((folder / "run.json").read_text())
    dropped = [key for key, value in changes.items() if value is None]
    kept = {key: value for key, value in (status | changes).items() if key not in dropped}
    (folder / "run.json").write_text(json.dumps(kept))


def test_runs_that_cannot_be_measured_by(run_folder):
    edited(run_folder, status="interrupted")
    with pytest.raises(OutputError, match=r"'interrupted'; only a complete run .* Resume it"):
        fit(run_folder)
    edited(run_folder, status="complete", times=[0, 1])
    with pytest.raises(OutputError, match=r"time series. Give one of its time points"):
        fit(run_folder)
    edited(run_folder, times=None, steps=None)
    with pytest.raises(OutputError, match="does not tell what its stages took"):
        fit(run_folder)
    with pytest.raises(OutputError, match="is not the output of a run"):
        fit(run_folder.parent)
    (run_folder / "other.json").write_text("[1]")
    with pytest.raises(OutputError, match=r"is no run.json"):
        fit(run_folder / "other.json")


# the command


def test_plan_of_a_shape(cli):
    said = cli.does("plan", "--shape", "100,200,300", "--voxel-size", "2,1,1", "--workers", "3")
    assert "in a volume of 100x200x300, 3 workers" in said.out
    cli.refuses("plan", match="needs an image, or the shape")
    cli.refuses("plan", "a.tif", "--shape", "1,2,3", match="needs an image, or the shape")
    cli.refuses("plan", "--shape", "1,2", match="--shape '1,2' must be three whole numbers")
    cli.refuses("plan", "--shape", "9,9,9", match="needs voxel_size")
    size = ("--voxel-size", "1,1,1")
    cli.refuses("plan", "--shape", "9,9,9", *size, "--dtype", "int64", match="dtype 'int64'")
    cli.refuses("plan", "--shape", "9,9,9", *size, "--occupied", "0.5", match="measured run")


def test_plan_by_a_run(cli, run_folder):
    given = ("plan", "--shape", "100,200,300", "--voxel-size", "1,1,1", "--measured", run_folder)
    sigmas = ("--spot-sigma", "1", "--outline-sigma", "1")
    said = cli.does(*given, *sigmas, "--occupied", "0.4", "--workers", "5")
    assert "by the rates of" in said.out
    assert "with 5 workers" in said.out
    for word in ("time ", "memory per worker", "memory of driver", "disk, at most", "cells "):
        assert f"\n  {word}" in said.out
    told = json.loads(cli.does(*given, *sigmas, "--json").out)
    assert told["cost"]["hours"]["low"] <= told["cost"]["hours"]["expected"]
    cli.refuses(*given, "--instances", "components", match="made with instances voronoi-otsu")
    edited(run_folder, status="failed")
    cli.refuses(*given, match="'failed'; only a complete run")
