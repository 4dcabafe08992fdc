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
from cellseg3d_dist.engine.inputs import Inputs, inputs_exist, open_inputs
from cellseg3d_dist.engine.method import Method, resolve_method
from cellseg3d_dist.engine.plan import Plan, check_disk, make_plan, planned_before
from cellseg3d_dist.engine.readable import store_array
from cellseg3d_dist.engine.run_json import now_text, versions
from cellseg3d_dist.errors import OutputError
from cellseg3d_dist.instances.backends import kernels_of
from cellseg3d_dist.networks.cards import known
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.segmentation.running import Run, RunResult, refuse_other_version
from cellseg3d_dist.volumes import location_of, open_volume

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

    def at(self, time: int | None) -> Order:
        """The same for one time point."""
        return replace(self, config=self.config.model_copy(update={"time": time}))

    def single(self) -> Order:
        """The same where one time point is asked for, or there is one."""
        return self if isinstance(self.config.time, int) else self.at(None)

    def times(self) -> range | None:
        """Several time points that are asked for; None is one.

        Raises
        ------
        VolumeError, ConfigError
            If the image cannot be opened, or has not all of them.
        """
        config = self.config
        if isinstance(config.time, int):
            return None
        source = config.image if self.stored is None else self.stored
        opened = open_volume(
            source,
            voxel_size=config.voxel_size,
            channel=config.channel,
            level=config.level,
            time=0,
        )
        return config.times(opened.n_times)

    @classmethod
    def of(cls, image: Any, options: dict[str, Any], command: str = "") -> Order:
        """Image and options of ``segment``."""
        stored_at = location_of(image)
        if stored_at is None:
            return cls(make_config(options | {"image": "<memory>"}), image, command)
        text = stored_at if "://" in stored_at else str(absolute_path(stored_at))
        return cls(make_config(options | {"image": text}).located(known()), None, command)


@dataclass(frozen=True)
class Checked:
    """An order that can be carried out; nothing of it exists yet."""

    order: Order
    method: Method
    inputs: Inputs
    plan: Plan


def checked(
    order: Order, out: Path, overwrite: bool, client: Client | None, method: Method | None = None
) -> Checked:
    """Check an order against its input, its output, memory and disk.

    ``method`` is that of the same options, where it is known.
    """
    method = method or resolve_method(order.config)
    config = method.config
    inputs = open_inputs(config, order.stored)
    check_new_output(out, inputs.locations(config), overwrite)
    check_options(config, inputs.volume)
    kernels_of(config.backend)
    if config.earlier_run is not None:
        earlier = EarlierRun.of(config.earlier_run)
        _check_apart_from(earlier, out)
        check_same_source(earlier, config, inputs.fingerprint())
        config = config.model_copy(update={"block_shape": earlier.block_shape})
        method = replace(method, config=config)
    the_plan = make_plan(method, inputs.volume, _resources(config, client))
    if config.earlier_run is not None and method.predicts:
        masked = config.mask is not None
        check_predicted(earlier, the_plan.reach, the_plan.sparse, masked)
    check_disk(the_plan, out)
    return Checked(order, method, inputs, the_plan)


def _check_apart_from(earlier: EarlierRun, out: Path) -> None:
    """A run must not replace what it is made from; it may lie in its folder."""
    for source in (earlier.folder.path, earlier.predicted.folder.path):
        if out == source or out in source.parents:
            raise OutputError(
                f"output {out} is or holds the run {source} that is used again. Choose another."
            )


def created(ready: Checked, folder: RunFolder, overwrite: bool, status: str = "running") -> Run:
    """The run folder of an order that was checked."""
    method, inputs, stored = ready.method, ready.inputs, ready.order.stored
    config = method.config
    content = {
        "status": status,
        **_begins(ready),
        **({} if stored is not None else inputs.fingerprints()),
        "deciding": config.deciding(),
        "model": method.facts(),
        "plan": ready.plan.to_dict(),
        "dtype": str(inputs.volume.dtype),
        "versions": versions(),
    }
    create_output(folder.path, overwrite, content)
    with naming_disk_errors(folder):
        folder.config.write_text(config.to_yaml())
    if stored is not None:
        config, inputs = store_array(folder, config, stored)
        method = replace(method, config=config)
    return Run(folder, method, inputs, ready.plan)


def _begins(ready: Checked) -> dict[str, Any]:
    return {
        "version": cellseg3d_dist.__version__,
        "started": now_text(),
        "command": ready.order.command,
    }


def begun(order: Order, out: Path, overwrite: bool, client: Client | None) -> Run:
    """Check an order and create its run folder."""
    return created(checked(order, out, overwrite, client), RunFolder(out.absolute()), overwrite)


def taken_up(folder: RunFolder, how: dict[str, Any], client: Client | None) -> Run | RunResult:
    """A run to go on with; or its result where it is finished and its input gone.

    ``how`` replaces options that decide no result.
    """
    status, out = folder.status(), folder.path
    complete = status["status"] == "complete"
    needed = {"fingerprint", "metadata", "deciding", "plan", *(["facts"] if complete else [])}
    if lacking := sorted(needed - status.keys()):
        raise OutputError(f"{out} was not begun to the end (no {lacking[0]}). Start a new run.")
    if not complete:
        refuse_other_version(folder)
    config = make_config(read_yaml(folder.config) | how, str(folder.config))
    refuse_changed_options(folder, status["deciding"], config)
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


def refuse_changed_options(
    folder: RunFolder, before: dict[str, Any], config: SegmentConfig
) -> None:
    """Refuse to go on with other options than a run was begun with.

    Raises
    ------
    OutputError
        With what was and what is.
    """
    _refuse_changed(folder, _differences(before, config.deciding()))


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
