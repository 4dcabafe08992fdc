"""Find and measure every cell in large 3D microscopy, block by block."""

__version__ = "0.1.0"
