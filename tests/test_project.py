"""What people read about the project agrees with the project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml

import cellseg3d_dist
from cellseg3d_dist.cli import app
from cellseg3d_dist.config import make_config
from cellseg3d_dist.measuring.table import columns

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("cellseg3d_dist", "tests", "benchmarks", "examples", "docs", ".ci", ".github")
DOCUMENTS = [p.relative_to(ROOT) for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def texts() -> list[Path]:
    """Files of the project that hold text, this one left out."""
    found = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".coverage"]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    cached = {".png", ".pyc", ".nbi", ".nbc", ".safetensors"}
    temporary = re.compile(r"/\.ci/tmp\.")
    return [
        path
        for path in found
        if path.suffix not in cached
        and path != Path(__file__).resolve()
        and not temporary.search(path.as_posix().removeprefix(ROOT.as_posix()))
    ]


def section(title: str) -> str:
    """Text of the README under a heading, up to the next of any level."""
    return re.split(r"^#+ ", README.split(f"{title}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def rows(text: str) -> list[list[str]]:
    """Cells of the table in a text, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("end", ["cellseg3d-dist demo", "pytest"])
def test_readme_lines_do_their_own_set_up(end):
    lines = re.findall(rf"^python3 -m venv \.venv && .*{end}$", README, flags=re.M)
    assert len(lines) == 1
    assert "-c constraints.txt" in lines[0]
    # .ci/run finds the lines by their ends
    assert f"readme_line '{end}'" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_readme_lists_every_command():
    listed = {row[0].strip("`").split()[0] for row in rows(section("## Use"))}
    assert listed == set(typer.main.get_command(app).commands)


def test_readme_table_is_that_of_segment():
    command = typer.main.get_command(app).commands["segment"]
    offered = {p.opts[0] for p in command.params if p.param_type_name == "option"}
    table = {row[0].strip("`"): row[1] for row in rows(section("### Options of `segment`"))}
    assert set(table) == offered - {"--help"}


def test_readme_table_has_the_right_defaults():
    table = {row[0].strip("`"): row[1] for row in rows(section("### Options of `segment`"))}
    defaults = make_config({"image": "a.tif"}).plain()
    del defaults["image"]
    for key, value in defaults.items():
        shown = {False: "off", True: "on"}.get(value) if isinstance(value, bool) else f"`{value}`"
        assert table[f"--{key.replace('_', '-')}"] == shown


def test_readme_yaml_is_a_configuration():
    (example,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.S)
    make_config({"image": "a.tif"} | yaml.safe_load(example))


def test_every_column_is_described():
    text = (ROOT / "docs" / "run_folder.md").read_text(encoding="utf-8")
    for column in columns(["signal"]):
        assert f"`{column.name}`" in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_one_version():
    version = cellseg3d_dist.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == version
    assert citation["version"] == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_constraints_pin_every_dependency_and_nothing_local():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    pinned = {normal(pin.split("==")[0]) for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in ("test", "opencl", "bench"):
        wanted += project["optional-dependencies"][extra]
    named = {normal(re.match(r"[A-Za-z0-9_.-]+", requirement)[0]) for requirement in wanted}
    assert named - pinned == set()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_nothing_of_one_machine_or_registry():
    patterns = [
        r"(?<![\w.}/])/(work|opt|root|home)/",
        r"/tmp/\w+/",
        r"pypi|pythonhosted|anaconda\.org|download\.pytorch",
        r"--(extra-)?index-url|--find-links",
    ]
    wrong = re.compile("|".join(patterns))
    found = []
    for path in texts():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if wrong.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


def test_modules_are_short():
    long = {
        path.name: n
        for path in (ROOT / "cellseg3d_dist").rglob("*.py")
        if (n := len(path.read_text(encoding="utf-8").splitlines())) >= 420
    }
    assert long == {}


def test_picture_is_small():
    assert (ROOT / "docs" / "segmentation.png").stat().st_size < 400_000
