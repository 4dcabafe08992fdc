"""What all pages share: their look, pictures inside the file, values that are escaped."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from cellseg3d_dist.measuring.writing import replacing


def render(package: str, template: str, values: dict[str, Any]) -> str:
    """A page as one HTML text; every value is escaped.

    Parameters
    ----------
    package : str
        Where the template lies.
    template : str
        Its file name. Its ``css`` is the look that all pages have.
    values : dict
        All that it names.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    look = resources.files("cellseg3d_dist.report").joinpath("page.css")
    source = resources.files(package).joinpath(template)
    made = environment.from_string(source.read_text(encoding="utf-8"))
    return made.render(css=look.read_text(encoding="utf-8"), **values)


def write_page(path: Path, page: str) -> None:
    """Write it whole or not at all."""
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")


def embedded(image: bytes) -> str:
    """A PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")
