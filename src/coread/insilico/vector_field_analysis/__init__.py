"""Locally linear receptive fields (LSTAs) of natural images, and the vector field that they make in stimulus space."""
