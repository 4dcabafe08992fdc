"""Arrows of import point one way, and heavy libraries stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cellseg3d_dist

PACKAGE = "cellseg3d_dist"
ROOT = Path(cellseg3d_dist.__file__).parent

# a module may import from what stands before it, and from its own package
ORDER = (
    "errors",
    "paths",
    "grid",
    "config",
    "instances",
    "preprocessing",
    "representations",
    "metrics",
    "merging",
    "measuring",
    "volumes",
    "networks",
    "labellers",
    "training",
    "engine",
    "arrays",
    "report",
    "costs",
    "phantoms",
    "conversion",
    "segmentation",
    "evaluation",
    "comparison",
    "tuning",
    "demo",
    "cli",
    "__main__",
)
# the only homes of a library; names for annotations under TYPE_CHECKING cost nothing
HOMES = {
    "zarr": {"volumes"},
    "ome_zarr": {"volumes"},
    "ome_zarr_models": {"volumes"},
    "tifffile": {"volumes"},
    "h5py": {"volumes"},
    "distributed": {"engine"},
    "torch": {"representations", "networks", "training"},
    "monai": {"networks", "training"},
    "scikit_posthocs": {"metrics"},
    "pandas": {"comparison"},
}


def imported_names(tree: ast.AST, module: str, is_package: bool) -> set[str]:
    """Full names of what a module imports anywhere in its code, at any depth."""
    package = module if is_package else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


class WithoutTypeChecking(ast.NodeTransformer):
    """Drops the body of ``if TYPE_CHECKING:``."""

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return ast.If(ast.Constant(False), [ast.Pass()], node.orelse)
        return node


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """Imports of a module that break a rule, each as one line."""
    parts = module.split(".")
    if len(parts) == 1:
        own = "__init__"
    else:
        own = parts[1]
        if own not in ORDER:
            return [f"{module}: {own} has no place in the order of imports"]
    found = []
    written = imported_names(ast.parse(source), module, is_package)
    run = imported_names(WithoutTypeChecking().visit(ast.parse(source)), module, is_package)
    for name in sorted(written):
        # dask.distributed is another door to the same library
        top, _, rest = name.removeprefix("dask.").partition(".")
        target = rest.partition(".")[0]
        if top == PACKAGE and own != "__init__" and target in ORDER and target != own:
            if ORDER.index(target) > ORDER.index(own):
                found.append(f"{module} imports {name}, which stands after {own}")
        elif name in run and top in HOMES and own not in HOMES[top]:
            found.append(f"{module} imports {name}; only {sorted(HOMES[top])} may")
    return found


def modules() -> list[tuple[Path, str, bool]]:
    out = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        out.append((path, ".".join(parts[:-1] if is_package else parts), is_package))
    return out


@pytest.mark.parametrize(
    ("path", "module", "is_package"), [pytest.param(*m, id=m[1]) for m in modules()]
)
def test_imports_point_one_way(path, module, is_package):
    assert faults(path.read_text(encoding="utf-8"), module, is_package) == []


@pytest.mark.parametrize(
    ("source", "module", "message"),
    [
        ("from cellseg3d_dist.engine import plan", "grid", "after grid"),
        ("from cellseg3d_dist import engine", "volumes.zarr3", "after volumes"),
        ("from ..engine.plan import Plan", "metrics.scores", "after metrics"),
        ("def f():\n    import cellseg3d_dist.cli", "report.html", "after report"),
        ("import zarr.storage", "engine.plan", "only ['volumes']"),
        ("from tifffile import imread", "cli", "only ['volumes']"),
        ("from distributed import Client", "cli", "only ['engine']"),
        ("from dask.distributed import Client", "arrays", "only ['engine']"),
        ("import torch", "engine.plan", "only ['networks', 'representations', 'training']"),
        ("if TYPE_CHECKING:\n    import cellseg3d_dist.cli", "grid", "after grid"),
        ("if TYPE_CHECKING:\n    x = 1\nelse:\n    import torch", "cli", "only ['networks'"),
        ("x = 1", "helpers", "no place"),
    ],
)
def test_wrong_imports_are_found(source, module, message):
    (fault,) = faults(source, f"{PACKAGE}.{module}")
    assert message in fault


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from .contingency import contingency", "metrics.scores"),
        ("from cellseg3d_dist.metrics.contingency import contingency", "metrics.scores"),
        ("from cellseg3d_dist.engine import plan", "phantoms"),
        ("import zarr, tifffile", "volumes.formats"),
        ("from distributed import Client", "engine.executors"),
        ("import numpy, dask.array", "arrays"),
        ("if TYPE_CHECKING:\n    from distributed import Client", "segmentation"),
    ],
)
def test_right_imports_pass(source, module):
    assert faults(source, f"{PACKAGE}.{module}") == []


def test_importing_the_package_is_light():
    code = (
        "import sys, cellseg3d_dist; "
        "heavy = {'torch', 'dask', 'distributed', 'monai', 'zarr', 'numba', 'pandas', "
        "'scikit_posthocs', 'matplotlib'} & set(sys.modules); "
        "sys.exit(f'pulled in {sorted(heavy)}' if heavy else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
