"""In-silico experiments on trained models."""

from coread.insilico.visualization import visualize_receptive_fields

__all__ = ["visualize_receptive_fields"]
