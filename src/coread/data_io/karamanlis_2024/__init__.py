"""Gaze movies of Karamanlis et al. 2024 as documented containers."""
