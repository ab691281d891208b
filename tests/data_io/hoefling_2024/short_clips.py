"""The published layout with short clips, and changes to it."""

import h5py
import numpy as np

from coread.config import compose_data_io
from tests.published_data.hoefling_2024 import (
    RESPONSES,
    Field,
    make_movies,
    write_fields,
    write_movies,
)

CONFIG = compose_data_io("hoefling_2024_low_res")
# the published layout with short clips: 4 + 3 training clips around 3 showings of 2 test clips
SHORT = CONFIG | {"clip_length": 20, "clip_duration_s": 19 / 30, "train_blocks": [4, 3]}
BLOCKS, CLIP, N_TEST, N_CLIPS = (4, 3), 20, 2, 7
PUBLISHED_VALIDATION = [0, 4, 10, 11, 18, 30, 45, 62, 67, 77, 79, 80, 81, 83, 95]
NAME = "session_1_ventral1_20200226"


def short_movies(seed=0, shape=(2, 5, 4), n_sequences=3):
    return make_movies(np.random.default_rng(seed), shape, N_CLIPS, N_TEST, CLIP, n_sequences)


def noise_field(n_cells=3, seed=1, **labels):
    n_frames = CLIP * (N_CLIPS + N_TEST * 3)
    return Field(np.random.default_rng(seed).gamma(2.0, 1.0, (n_frames, n_cells)), clip_length=CLIP, **labels)


def lay_out(folder, fields=None, movies=None):
    write_movies(folder, short_movies() if movies is None else movies)
    write_fields(folder, {NAME: noise_field()} if fields is None else fields)
    return folder


def edit(folder, session=NAME, attributes=(), **datasets):
    with h5py.File(folder / RESPONSES, "a") as file:
        for key, values in datasets.items():
            if key in file[session]:
                del file[session][key]
            if values is not None:
                file[session][key] = values
        for key in attributes:
            del file[session].attrs[key]
