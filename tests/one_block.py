"""Run one block of pickled stages in this process, as a worker does, and print its memory.

Called as ``python one_block.py STAGES BLOCK NAME ...``; one line per name: the largest
resident memory in bytes while that stage ran its block.
"""

import pickle
import sys
from pathlib import Path

import distributed  # noqa: F401 - a worker has it loaded
from distributed import Worker  # noqa: F401

from cellseg3d_dist.engine.stage import run_block
from cellseg3d_dist.volumes import limit_threads


def main(path: str, number: str, *names: str) -> None:
    limit_threads()
    stages, grids = pickle.loads(Path(path).read_bytes())
    for name in names:
        block = grids[name].block(int(number) if grids[name].n_blocks > int(number) else 0)
        # forget what came before: the kernel counts the peak from here on
        Path("/proc/self/clear_refs").write_text("5")
        print(name, run_block(stages[name], block)["peak_rss"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
