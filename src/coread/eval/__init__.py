"""Evaluation: metrics, oracles, scores and tables."""
