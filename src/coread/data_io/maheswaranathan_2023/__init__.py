"""Natural scenes and white noise of Maheswaranathan et al. 2023 as documented containers."""
