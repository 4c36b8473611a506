"""Prepared volumes on disk, read by the box: recipes, `prepare`, and the store itself."""
