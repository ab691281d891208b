"""Data: containers, sources, splits and loaders."""
