"""Flashed natural images of Goldin et al. 2022 as documented containers."""
