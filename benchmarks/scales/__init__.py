"""Parts of the scale benchmark."""
