"""What a finished run says of its cost: its ``run.json``, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

from cellseg3d_dist.costs.work import family, read_share
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.errors import ConfigError, OutputError
from cellseg3d_dist.grid import BlockGrid, Triple

#: Stages of every block, with foreground or without.
WHOLE_VOLUME = ("survey", "survey-prepared", "percentiles", "percentiles-prepared", "clahe",
                "predict", "check-prediction", "survey-foreground", "threshold", "score",
                "convert")  # fmt: skip
#: The stage that runs the network.
PREDICT = "predict"
#: Stages whose grid is not that of the blocks.
OTHER_GRIDS = ("pyramid", "convert")


@dataclass(frozen=True)
class StageRecord:
    """What the stages of one family took, all levels and rounds together.

    Attributes
    ----------
    stage : str
    starts : int
        Stages.
    blocks, voxels : int
        Done, and in their write regions.
    seconds, busy_seconds : float
        Of the stages, and of their blocks on all workers.
    first_blocks, first_seconds
        Of the blocks that were their process's first, see
        :class:`~cellseg3d_dist.engine.runner.StageSummary`.
    written_bytes : int
    """

    stage: str
    starts: int
    blocks: int
    voxels: int
    seconds: float
    busy_seconds: float
    first_blocks: int = 0
    first_seconds: float = 0.0
    written_bytes: int = 0


@dataclass(frozen=True)
class RunRecord:
    """A finished run.

    Attributes
    ----------
    name : str
        Path of the run.
    version : str
    deciding : dict
        The configuration that decides its labels.
    shape, block_shape : (int, int, int)
    workers : int
    halos : dict
        Voxels that a stage reads beyond a block, see :func:`halos_of`.
    stages : tuple of StageRecord
    steps : dict
        Seconds of what the driver did between stages, and of everything else (``other``).
    seconds : float
        Of the whole, report included.
    cells, fragments : int
    worker_bytes, projected_bytes, driver_bytes : int
        Largest memory of a worker, what was projected for it, and that of the driver.
    disk : dict
        Bytes and files of each part of the run folder when all blocks were done.
    memory_limit : int
        Bytes per worker.
    patches : int
        Of a network, in all blocks.
    dtype : str
        Of the image; empty if not known.
    """

    name: str
    version: str
    deciding: Mapping[str, Any]
    shape: Triple
    block_shape: Triple
    workers: int
    halos: Mapping[str, Triple]
    stages: tuple[StageRecord, ...]
    steps: Mapping[str, float]
    seconds: float
    cells: int
    fragments: int
    worker_bytes: int
    projected_bytes: int
    driver_bytes: int
    disk: Mapping[str, Mapping[str, int]]
    memory_limit: int
    patches: int = 0
    dtype: str = ""

    @property
    def voxels(self) -> int:
        """Of the volume."""
        return prod(self.shape)

    @property
    def n_blocks(self) -> int:
        """Of the volume."""
        return BlockGrid(self.shape, self.block_shape).n_blocks

    @property
    def by_stage(self) -> dict[str, StageRecord]:
        """Stages by family."""
        return {record.stage: record for record in self.stages}

    @property
    def occupied(self) -> float:
        """Share of the volume in blocks that were labelled."""
        found = self.by_stage.get("label")
        return 1.0 if found is None else found.voxels / max(self.voxels, 1)

    def work(self, stage: str) -> float:
        """Voxels that a stage read, halos included; of a network, its patches."""
        voxels = self.by_stage[stage].voxels
        if stage == PREDICT:
            return self.patches * voxels / max(self.voxels, 1)
        return voxels * work_share(stage, self.shape, self.block_shape, self.halos)

    @classmethod
    def of(cls, run: str | Path) -> RunRecord:
        """Read the record of a run folder, or of a copy of its ``run.json``.

        Raises
        ------
        OutputError
            If it is no run, not complete, or its stages did not note what they took.
        """
        path = Path(run)
        status = _status(path)
        if status.get("status") != "complete":
            raise OutputError(
                f"{path} is {status.get('status', 'no run')!r}; only a complete run tells what a "
                f"run costs. Resume it first."
            )
        if "times" in status:
            raise OutputError(f"{path} is a time series. Give one of its time points, as t0000.")
        try:
            return _record(str(path), status)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise OutputError(
                f"{path} does not tell what its stages took ({type(error).__name__}: {error}); an "
                f"earlier version made it, or it was edited. Make such a run again."
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RunRecord:
        """The inverse of :meth:`to_dict`."""
        known = {field.name for field in fields(cls)}
        given = {key: value for key, value in content.items() if key in known}
        given |= {key: tuple(given[key]) for key in ("shape", "block_shape")}
        given["halos"] = {key: _triple(halo) for key, halo in given["halos"].items()}
        stages = tuple(StageRecord(**stage) for stage in given.pop("stages"))
        return cls(stages=stages, **given)


def _status(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return RunFolder(path).status()
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read as a run.json: {error}") from error
    if not isinstance(content, dict):
        raise OutputError(f"{path} is no run.json.")
    return content


def _record(name: str, status: dict[str, Any]) -> RunRecord:
    plan, facts = status["plan"], status["facts"]
    shape, block_shape = _triple(plan["shape"]), _triple(plan["block_shape"])
    stages = _stages(status["stages"])
    # a run that only used results of another one does not know what they cost
    if not any(stage.stage == "survey" and stage.blocks for stage in stages):
        raise ValueError("no survey: it was made from an earlier run")
    steps = {str(key): float(value) for key, value in status["steps"].items()}
    known = sum(stage.seconds for stage in stages) + sum(steps.values())
    workers = float(steps.get("workers", 0.0))
    seconds = float(status["seconds"]) + workers
    merge = facts.get("merge", {})
    return RunRecord(
        name=name,
        version=str(status["version"]),
        deciding=dict(status["deciding"]),
        shape=shape,
        block_shape=block_shape,
        workers=int(plan["workers"]),
        halos=halos_of(plan["stages"]),
        stages=stages,
        steps=steps | {"other": max(0.0, seconds - known)},
        seconds=seconds,
        cells=int(facts["cells"]),
        fragments=int(merge.get("fragments", facts["cells"])),
        worker_bytes=max((int(s["peak_rss"]) for s in status["stages"]), default=0),
        projected_bytes=max(int(s["n_bytes"]) for s in plan["stages"]),
        driver_bytes=int(status["driver_peak_rss"]),
        disk={str(key): dict(value) for key, value in status["disk"].items()},
        memory_limit=int(plan["memory_limit"]),
        patches=int(plan["patches"] if any(s.stage == PREDICT for s in stages) else 0),
        dtype=str(status.get("dtype", "")),
    )


def halos_of(stages: list[dict[str, Any]]) -> dict[str, Triple]:
    """Halo of each planned stage."""
    return {str(stage["stage"]): _triple(stage["halo"]) for stage in stages}


def work_share(
    stage: str, shape: Triple, block_shape: Triple, halos: Mapping[str, Triple]
) -> float:
    """Voxels that a stage reads per voxel it writes."""
    if stage in OTHER_GRIDS:
        return 1.0
    return read_share(shape, block_shape, halos.get(stage, (0, 0, 0)))


def _stages(entries: list[dict[str, Any]]) -> tuple[StageRecord, ...]:
    """Families of stages; blocks that were done twice, after a resume, count once."""
    found: dict[str, StageRecord] = {}
    summed = ("starts", "blocks", "voxels", "seconds", "busy_seconds", "first_blocks",
              "first_seconds", "written_bytes")  # fmt: skip
    for entry in entries:
        name = family(entry["stage"])
        executed = max(int(entry["executed"]), 1)
        once = min(1.0, int(entry["blocks"]) / executed)
        one = StageRecord(
            stage=name,
            starts=1,
            blocks=round(executed * once) if entry["executed"] else 0,
            voxels=round(entry["voxels"] * once),
            seconds=entry["seconds"] * once,
            busy_seconds=entry["busy_seconds"] * once,
            first_blocks=int(entry["first_blocks"]),
            first_seconds=float(entry["first_seconds"]),
            written_bytes=round(entry["written_bytes"] * once),
        )
        before = found.get(name)
        if before is not None:
            sums = {key: getattr(one, key) + getattr(before, key) for key in summed}
            one = StageRecord(stage=name, **sums)
        found[name] = one
    return tuple(found.values())


def _triple(values: Any) -> Triple:
    z, y, x = (int(n) for n in values)
    return (z, y, x)


def check_alike(records: tuple[RunRecord, ...]) -> None:
    """Refuse runs that cannot be fitted together.

    Raises
    ------
    ConfigError
        If there is none, or they are of other methods.
    """
    if not records:
        raise ConfigError("a model of cost needs at least one finished run.")
    first = records[0]
    for other in records[1:]:
        for key in ("model", "instances", "device"):
            one, another = first.deciding.get(key), other.deciding.get(key)
            if one != another:
                raise ConfigError(
                    f"{first.name} was made with {key} {one}, {other.name} with {another}. Give "
                    f"runs of one method."
                )
