"""Simulated recordings with known ground truth."""
