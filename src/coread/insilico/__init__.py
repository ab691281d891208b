"""In-silico experiments on trained models."""
