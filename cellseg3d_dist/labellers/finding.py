"""Labellers by name: bundled ones, entry points, ``module:attribute``, ``file.py:function``."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from cellseg3d_dist.config.values import LABELLERS, labeller_entry_points
from cellseg3d_dist.errors import ConfigError, EnvironmentFailedError
from cellseg3d_dist.labellers.labeller import FunctionLabeller, Labeller, source_digest


@dataclass(frozen=True)
class LabellerSource:
    """Where a labeller comes from and its options; small, and travels with a stage.

    Attributes
    ----------
    name : str
        A bundled name, an entry point's, ``module:attribute`` or ``path/to/file.py:function``.
    options : tuple of (str, value)
        Sorted by name.
    device : str
        For labellers that take one.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    device: str = "cpu"

    @classmethod
    def of(
        cls, name: str, options: Mapping[str, Any] | None = None, device: str = "cpu"
    ) -> LabellerSource:
        """With options as a mapping."""
        return cls(name, tuple(sorted((options or {}).items())), device)

    def load(self) -> Labeller:
        """The labeller, one per process.

        Raises
        ------
        ConfigError
            If there is none of this name, or it cannot be used with these options.
        """
        return _loaded(self)

    def takes_device(self) -> bool:
        """Whether it can be told where to run."""
        return _takes(_found(self.name)[0], "device")

    def facts(self) -> dict[str, Any]:
        """What decides its labels."""
        return _facts(self)


def names() -> list[str]:
    """Names of bundled labellers and of entry points."""
    return sorted({*LABELLERS, *labeller_entry_points()})


@functools.lru_cache(maxsize=4)
def _facts(source: LabellerSource) -> dict[str, Any]:
    return source.load().facts()


@functools.lru_cache(maxsize=4)
def _loaded(source: LabellerSource) -> Labeller:
    found, origin = _found(source.name)
    options = dict(source.options)
    if not isinstance(found, type) and hasattr(found, "label"):
        if options:
            raise ConfigError(
                f"labeller {source.name} is made already and takes no options: "
                f"{', '.join(options)}. Name a class or a function."
            )
        return _checked(source.name, found)
    if not callable(found):
        raise ConfigError(
            f"labeller {source.name} is a {type(found).__name__}, not a function of (image, "
            f"voxel_size) or a class with halo, label and facts."
        )
    if _takes(found, "device"):
        options.setdefault("device", source.device)
    if isinstance(found, type):
        _check_options(source.name, found, (), options)
        return _checked(source.name, _made(source.name, found, options))
    _check_options(source.name, found, (None, None), options)
    return FunctionLabeller(found, options, origin)


def _made(name: str, found: Callable[..., Any], options: dict[str, Any]) -> Any:
    try:
        return found(**options)
    except (ConfigError, EnvironmentFailedError):
        raise
    except Exception as error:
        raise _unusable(name, error) from error


def _checked(name: str, made: Any) -> Labeller:
    if isinstance(made, Labeller):
        return made
    lacking = [part for part in ("halo", "label", "facts") if not hasattr(made, part)]
    raise ConfigError(
        f"labeller {name} has no {' and no '.join(lacking)}. A labeller is a function of (image, "
        f"voxel_size), or has halo, label and facts."
    )


def _takes(found: Callable[..., Any], parameter: str) -> bool:
    try:
        return parameter in inspect.signature(found).parameters
    except (TypeError, ValueError):
        return False


def _check_options(
    name: str, found: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        given = "(image, voxel_size) and the options" if arguments else "the options"
        raise ConfigError(
            f"labeller {name}{signature} cannot be called with {given} "
            f"{', '.join(options) or 'none'}: {error}."
        ) from None


def _found(name: str) -> tuple[Any, dict[str, Any]]:
    """What a name stands for, and where it was found."""
    if name in LABELLERS:
        module = importlib.import_module(f"cellseg3d_dist.labellers.{name}")
        return module.LABELLER, {}
    points = labeller_entry_points()
    if name in points:
        found = _imported(name, points[name].load)
        package = points[name].dist
        version = {} if package is None else {package.name: package.version}
        return found, {"name": name, "versions": version, "sha256": source_digest(found)}
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise ConfigError(
            f"instances {name!r}: there is no labeller of that name. Give one of "
            f"{', '.join(names())}, module:attribute or path/to/file.py:function."
        )
    module = _imported(name, functools.partial(_module, where))
    found = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"labeller {name}: there is no {attribute} in {where}.")
        found = getattr(found, part)
    versions = {}
    if not where.endswith(".py"):
        versions = _version_of(where.partition(".")[0])
    # not the path: the same file elsewhere gives the same labels
    short = f"{Path(where).name}:{attribute}" if where.endswith(".py") else name
    digest = source_digest(module)
    return found, {"name": short, "versions": versions, "sha256": digest}


def _imported(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise _unusable(name, error) from error


def _unusable(name: str, error: BaseException) -> ConfigError:
    text = " ".join(str(error).split())[:500]
    return ConfigError(f"labeller {name} cannot be loaded: {type(error).__name__}: {text}")


def _module(where: str) -> Any:
    if not where.endswith(".py"):
        return importlib.import_module(where)
    path = Path(where)
    if not path.is_file():
        raise ConfigError(f"labeller {where}: there is no such file.")
    # a name of its own, so that it hides no installed module
    name = f"cellseg3d_dist_labeller_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _version_of(package: str) -> dict[str, str]:
    try:
        return {package: metadata.version(package)}
    except metadata.PackageNotFoundError:
        return {}
