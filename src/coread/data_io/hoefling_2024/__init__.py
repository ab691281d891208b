"""Movies of Höfling et al. 2024 as documented containers."""
