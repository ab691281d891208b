"""Facts of Sridhar et al. 2025 under their published names; configs/data_io/sridhar_2025_*.yaml is what readers use."""

TEST_DATA_FRAMES = 5100  # the first 60 s of a gaze file are the repeated test sequence
NM_DATASET = "gollisch_lab/sridhar_2025/marmoset/natural_movie"
WN_DATASET = "gollisch_lab/sridhar_2025/marmoset/whitenoise"
