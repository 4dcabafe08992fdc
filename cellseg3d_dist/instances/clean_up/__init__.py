"""Clean-up of labels: pure functions on label arrays, each with the halo that it needs."""

from cellseg3d_dist.instances.clean_up.chain import clean_up

__all__ = ["clean_up"]
