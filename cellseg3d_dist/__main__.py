"""``python -m cellseg3d_dist`` is the command line."""

from cellseg3d_dist.cli import main

if __name__ == "__main__":
    main()
