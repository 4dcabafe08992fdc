"""The whole pipeline on a phantom of any size, with truth by construction.

    python benchmarks/scale.py [--smoke] [--shape 1280,1984,1984] [--memory-limit 2GB]
                               [--workers 2] [--model intensity] [--block-shape Z,Y,X]
                               [--phantom DIR] [--json FILE] [-- more options of segment]
    python benchmarks/scale.py --command "program {image} {out}" ...
    python benchmarks/scale.py --compare A.json B.json
    python benchmarks/scale.py --predict [--fit-to one] ...

Makes a phantom (or takes one made before), segments it in a process of its own, samples the
memory of driver and workers while it runs, and scores the labels when it has ended. Prints
time, speed, processor time, bytes and memory of each stage, and accuracy; writes them as JSON
with what the machine is. `--compare` prints two such files side by side: two machines, two
versions or two programs. `--command` measures another program in the same way: it is given
the OME-Zarr image and has to write a label image of the same shape to {out}, {out}.tif or
another ending that `cellseg3d-dist info` knows. `--predict` fits the model of cost to runs of
an eighth and a sixty-fourth of the voxels, says what the run will cost, makes it, and prints
both.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from scales.measuring import How, Triple, made_phantom, measure
from scales.predicting import predicted_and_measured
from scales.printing import print_compared, print_measured

SMOKE_SHAPE = (96, 128, 128)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, for checks only")
    parser.add_argument("--shape", default="1280,1984,1984", help="voxels, z,y,x")
    parser.add_argument("--memory-limit", default="2GB", help="per worker")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", default="intensity", help="intensity, or a network")
    parser.add_argument("--block-shape", help="voxels, z,y,x [from memory]")
    parser.add_argument("--phantom", type=Path, help="a phantom made before")
    parser.add_argument("--command", help="another program, with {image} and {out}")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A.json", "B.json"))
    parser.add_argument("--predict", action="store_true", help="try the model of cost")
    parser.add_argument("--fit-to", choices=("one", "two"), default="two", help="runs to fit to")
    parser.add_argument("--scratch", type=Path, help="where to work [temporary folder]")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("more", nargs="*", help="after --: options of segment, with their values")
    options = parser.parse_args()
    if options.predict and options.command:
        parser.error("--predict is about this program; leave --command out")
    return options


def main() -> None:
    """Measure, predict or compare."""
    options = parsed()
    if options.compare:
        print_compared(*(json.loads(path.read_text()) for path in options.compare))
        return
    z, y, x = SMOKE_SHAPE if options.smoke else (int(n) for n in options.shape.split(","))
    how = How(
        options.workers, options.memory_limit, options.model, options.block_shape,
        options.command, tuple(options.more),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        figures = run(options, (z, y, x), how, Path(scratch))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1))


def run(options: argparse.Namespace, shape: Triple, how: How, scratch: Path) -> dict[str, Any]:
    """One measurement, or a prediction and what came of it."""
    if options.predict:
        two = options.fit_to == "two"
        return predicted_and_measured(scratch, shape, how, options.phantom, two=two)
    folder = options.phantom or scratch / "phantom"
    made_phantom(folder, shape, how)
    figures = measure(folder, scratch / "run", how)
    print_measured(figures)
    if options.smoke:
        print_compared(figures, figures)
    return figures


if __name__ == "__main__":
    main()
