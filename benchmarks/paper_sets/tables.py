"""Our figures beside the published ones, as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from paper_sets.published import CHANNELS, IOU


def show(result: dict[str, Any]) -> None:
    """Print the tables of one set."""
    _TABLES[result["kind"]](result)
    for note in result["notes"]:
        print(f"  note: {note}")


def _line(name: str, values: Sequence[float | None], digits: int = 3, width: int = 7) -> None:
    shown = (f"{v:>{width}.{digits}f}" if v is not None else f"{'-':>{width}}" for v in values)
    print(f"  {name:<36}" + "".join(shown))


def _heads(what: str, heads: Sequence[str], width: int = 7) -> None:
    print(f"  {what:<36}" + "".join(f"{head:>{width}}" for head in heads))


def _instances(result: dict[str, Any]) -> None:
    heads = [*(f"{t:g}" for t in IOU), "mean"]
    print(f"  true objects, planes counted apart: {result['n_true_by_plane']:,}, published "
          f"{result['published_n_true_by_plane']:,} (the same if crop and down-sampling are); "
          f"in 3D {result['n_true']:,}")  # fmt: skip
    _heads("F1 by IoU, planes apart: published", heads)
    for name, curve in result["published"].items():
        _line(name, curve)
    _heads("F1 by IoU, planes apart: ours", heads)
    for row in result["rows"]:
        _line(row["name"], row["by_plane"])
    _heads("F1 by IoU, in 3D: ours", heads)
    for row in result["rows"]:
        _line(row["name"], row["in_3d"])
    tp, fp, fn = result["published_counts_by_plane"]
    print(
        f"  counts at IoU 0.5, planes apart; published of the best WNet3D: TP {tp} FP {fp} FN {fn}"
    )
    for row in result["rows"]:
        found = row["counts_by_plane"]
        print(f"  {row['name']:<36}   TP {found['tp']} FP {found['fp']} FN {found['fn']}")


def _mesospim(result: dict[str, Any]) -> None:
    print("  cells: " + ", ".join(
        f"{name} {n} (published {result['published_cells'][name]})"
        for name, n in result["cells"].items()
    ))  # fmt: skip
    volumes = result["volumes"]
    _heads("Dice by volume: published", ["visual", "c5", "c3"], 9)
    for name, values in result["published_by_volume"].items():
        _line(name, values, width=9)
    _heads("Dice by volume: ours", [*volumes, "mean", "SD"], 9)
    for name, found in result["dice"].items():
        _line(name, [*found["values"], found["mean"], found["sd"]], width=9)
    for what, rows in result["published_dice"].items():
        _heads(f"Dice, {what}: published", ["mean", "SD"], 9)
        for name, values in rows.items():
            _line(name, values, width=9)
    heads = [*(f"{t:g}" for t in IOU), "mean"]
    for key, what in (("by_plane", "planes apart"), ("in_3d", "in 3D")):
        _heads(f"F1 by IoU, {what}: ours", heads)
        for row in result["rows"]:
            _line(row["name"], row[key])


def _nucmm(result: dict[str, Any]) -> None:
    print(f"  {result['chunks']} chunks, {result['n_true']:,} nuclei")
    _heads("published", ["AP50", "AP75", "mean"], 9)
    for name, values in result["published"].items():
        _line(name, values, width=9)
    _heads("ours", ["AP50", "AP75", "mean"], 9)
    for row in result["rows"]:
        _line(row["name"], row["ap"], width=9)


def _spheroids(result: dict[str, Any]) -> None:
    heads = ["mean", *CHANNELS]
    _heads("score: published", heads, 9)
    for name, values in result["published"].items():
        _line(name, values, width=9)
    _heads("score: ours", heads, 9)
    for row in result["rows"]:
        _line(row["name"], row["score"], width=9)


_TABLES: dict[str, Callable[[dict[str, Any]], None]] = {
    "instances": _instances,
    "mesospim": _mesospim,
    "nucmm": _nucmm,
    "spheroids": _spheroids,
}
