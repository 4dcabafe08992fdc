"""Make a run ready: one that is begun, checked before anything is created, or one to go on with."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cellseg3d_dist
from cellseg3d_dist.config import SegmentConfig, make_config, read_yaml
from cellseg3d_dist.engine.checks import check_options
from cellseg3d_dist.engine.clusters import Resources, check_cluster
from cellseg3d_dist.engine.earlier import EarlierRun, check_predicted, check_same_source
from cellseg3d_dist.engine.folder import (
    RunFolder,
    check_new_output,
    create_output,
    naming_disk_errors,
)
from cellseg3d_dist.engine.inputs import inputs_exist, open_inputs
from cellseg3d_dist.engine.method import Method, resolve_method
from cellseg3d_dist.engine.plan import Plan, check_disk, make_plan, planned_before
from cellseg3d_dist.engine.readable import store_array
from cellseg3d_dist.engine.run_json import now_text, versions
from cellseg3d_dist.errors import OutputError
from cellseg3d_dist.instances.backends import kernels_of
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.segmentation.running import Run, RunResult, refuse_other_version
from cellseg3d_dist.volumes import location_of

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes
    ----------
    config : SegmentConfig
        As given.
    stored : array or None
        What is segmented where it has no path.
    command : str
        The line that asked for it.
    """

    config: SegmentConfig
    stored: Any = None
    command: str = ""

    @classmethod
    def of(cls, image: Any, options: dict[str, Any], command: str = "") -> Order:
        """Image and options of ``segment``."""
        stored_at = location_of(image)
        if stored_at is None:
            return cls(make_config(options | {"image": "<memory>"}), image, command)
        text = stored_at if "://" in stored_at else str(absolute_path(stored_at))
        return cls(make_config(options | {"image": text}).located(), None, command)


def begun(order: Order, out: Path, overwrite: bool, client: Client | None) -> Run:
    """Check an order and create its run folder."""
    method = resolve_method(order.config)
    config, stored = method.config, order.stored
    inputs = open_inputs(config, stored)
    check_new_output(out, inputs.locations(config), overwrite)
    check_options(config, inputs.volume)
    kernels_of(config.backend)
    if config.earlier_run is not None:
        earlier = EarlierRun.of(config.earlier_run)
        check_same_source(earlier, config, inputs.fingerprint())
        config = config.model_copy(update={"block_shape": earlier.block_shape})
        method = replace(method, config=config)
    the_plan = make_plan(method, inputs.volume, _resources(config, client))
    if config.earlier_run is not None and method.predicts:
        masked = config.mask is not None
        check_predicted(earlier, the_plan.reach, the_plan.sparse, masked)
    check_disk(the_plan, out)
    status = {
        "status": "running",
        "version": cellseg3d_dist.__version__,
        "started": now_text(),
        "command": order.command,
        **({} if stored is not None else inputs.fingerprints()),
        "deciding": config.deciding(),
        "model": method.facts(),
        "plan": the_plan.to_dict(),
        "versions": versions(),
    }
    folder = create_output(out, overwrite, status)
    with naming_disk_errors(folder):
        folder.config.write_text(config.to_yaml())
    if stored is not None:
        config, inputs = store_array(folder, config, stored)
        method = replace(method, config=config)
    return Run(folder, method, inputs, the_plan)


def planned(order: Order) -> Plan:
    """The plan of an order; nothing is created."""
    method = resolve_method(order.config)
    volume = open_inputs(method.config, order.stored).volume
    check_options(method.config, volume)
    return make_plan(method, volume)


def taken_up(out: Path, how: dict[str, Any], client: Client | None) -> Run | RunResult:
    """A run to go on with; or its result where it is finished and its input gone.

    ``how`` replaces options that decide no result.
    """
    folder = RunFolder(out)
    status = folder.status()
    complete = status["status"] == "complete"
    needed = {"fingerprint", "metadata", "deciding", "plan", *(["facts"] if complete else [])}
    if lacking := sorted(needed - status.keys()):
        raise OutputError(f"{out} was not begun to the end (no {lacking[0]}). Start a new run.")
    if not complete:
        refuse_other_version(folder)
    config = make_config(read_yaml(folder.config) | how, str(folder.config))
    _refuse_changed(folder, _differences(status["deciding"], config.deciding()))
    if complete and not inputs_exist(config):
        return RunResult(folder.path, status["facts"]["cells"], 0)
    method = resolve_method(config)
    _refuse_changed(folder, _changed_weights(status, method))
    inputs = open_inputs(config, None)
    now = inputs.fingerprints()
    _refuse_changed(folder, _changed_inputs(status["metadata"], now["metadata"], "metadata"))
    moved = _changed_inputs(status["fingerprint"], now["fingerprint"], "files")
    if complete:
        _refuse_changed(folder, moved)
    block_shape = tuple(status["plan"]["block_shape"])
    fixed = replace(method, config=config.model_copy(update={"block_shape": block_shape}))
    the_plan = make_plan(fixed, inputs.volume, _resources(config, client))
    the_plan = planned_before(the_plan, status["plan"])
    return Run(
        folder, method, inputs, the_plan, resumed=True, compare=bool(moved), complete=complete
    )


def _resources(config: SegmentConfig, client: Client | None) -> Resources | None:
    return check_cluster(client, config.scheduler) if config.executor == "dask" else None


def _refuse_changed(folder: RunFolder, changed: list[str]) -> None:
    if changed:
        raise OutputError(
            f"{folder.path} cannot be resumed: {'; '.join(changed)}. Undo that, or start a new run."
        )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    keys = sorted(before.keys() | now.keys())
    return [
        f"{key} was {before.get(key, 'not set')!r} and is {now.get(key, 'not set')!r}"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _changed_weights(status: dict[str, Any], method: Method) -> list[str]:
    before, now = status.get("model", {}), json.loads(json.dumps(method.facts()))
    changed = []
    if before.get("sha256") != now.get("sha256"):
        changed.append(f"the weights of model {method.config.model} have changed")
    outside = (before.get("labeller", {}), now.get("labeller", {}))
    changed += [f"of labeller {method.config.instances}, {text}" for text in _differences(*outside)]
    return changed


def _changed_inputs(before: dict[str, str], now: dict[str, str], what: str) -> list[str]:
    keys = sorted(before.keys() | now.keys())
    return [
        f"the {what} of the {key} have changed since"
        for key in keys
        if before.get(key) != now.get(key)
    ]
