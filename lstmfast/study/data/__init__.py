"""Loaders, one file for each source: they say where the data comes from and under which licence."""
