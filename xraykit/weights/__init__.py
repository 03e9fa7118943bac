"""Weights that come with the package; each has its model card beside it."""
