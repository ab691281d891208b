"""Files in the layout that Sridhar et al. (2025) published, with cells that copy one pixel of what the screen showed.

The screen is rendered here line by line in the words of the publication (crop, mirror, transpose), on purpose unlike
the reader, which computes with indices.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

IMAGE_SHAPE = (350, 300)
MARGIN, WIDTH, HEIGHT = 50, 200, 150
TOP, BOTTOM, LEFT, RIGHT = 35, 35, 55, 55
NATURAL_MOVIE = "gollisch_lab/sridhar_2025/marmoset/natural_movie"
WHITE_NOISE = "gollisch_lab/sridhar_2025/marmoset/whitenoise"
GAZE_OF = {
    "01": "complete_fixations_seed_2022and2023_s4_fixed.txt",
    "02": "complete_fixations_seed2022_s4.txt",
    "03": "complete_fixations_seed_2022and2023_s4_fixed.txt",
    "04": "complete_fixations_seed_2022and2023_s4_fixed.txt",
}


@dataclass(frozen=True)
class PlantedCell:
    """A cell whose response is the pixel (y, x) of the frame shown `lag` bins ago, 0 to 1."""

    y: int
    x: int
    lag: int


CELLS = (PlantedCell(0, 0, 0), PlantedCell(79, 3, 2), PlantedCell(11, 89, 1), PlantedCell(50, 30, 4))


def copies(frames: np.ndarray, cells: Sequence[PlantedCell] = CELLS) -> np.ndarray:
    """Return responses (neuron, frame) of planted cells to a presentation (frame, height, width)."""
    responses = np.zeros((len(cells), len(frames)))
    for row, cell in enumerate(cells):
        responses[row, cell.lag :] = frames[: len(frames) - cell.lag, cell.y, cell.x]
    return responses


# ------------------------------------------------------------------------------------------------------- natural movie


def screen(images: np.ndarray, line: Sequence[float]) -> np.ndarray:
    """Return the published frame (height, width) of a gaze line (image, x, y, flip), grey levels / 255."""
    image, x, y, flip = (int(value) for value in line)
    x, y = x + MARGIN, y + MARGIN
    window = images[image][x - WIDTH // 2 : x + WIDTH // 2, y - HEIGHT // 2 : y + HEIGHT // 2] / 255
    if flip == 0:
        window = np.fliplr(window)
    return window.T[TOP : HEIGHT - BOTTOM, LEFT : WIDTH - RIGHT]


def gaze_text(lines: np.ndarray) -> str:
    """Return lines (image, x, y, flip) as the published text: seven fields, of which 0, 3, 4 and the last are used."""
    return "".join(f"{int(i)} {int(i) + 10088} 0.0 {x:.1f} {y:.1f} 7 {int(flip)}\n" for i, x, y, flip in lines)


def random_gaze(rng: np.random.Generator, n_lines: int, n_images: int) -> np.ndarray:
    """Return lines whose windows lie inside the images; flips mixed, and every frame shown for two refreshes."""
    n = -(-n_lines // 2)
    lines = np.column_stack(
        [rng.integers(0, n_images, n), rng.integers(50, 201, n), rng.integers(25, 176, n), rng.integers(0, 2, n)]
    )
    return np.repeat(lines, 2, axis=0)[:n_lines]


def write_natural_movie(
    data_dir: Path,
    *,
    sessions: Sequence[str] = ("01",),
    n_images: int = 10,
    n_test_lines: int = 60,
    n_trials: int = 4,
    trial_length: int = 300,
    n_repeats: int = 4,
    seed: int = 0,
) -> dict[str, Any]:
    """Write film, gaze and responses; return images and lines. The last trial ends with what the first began with."""
    rng = np.random.default_rng(seed)
    folder = data_dir / NATURAL_MOVIE
    for name in ("stimuli_padded_4", "fixations", "responses"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images = rng.integers(0, 256, (n_images, *IMAGE_SHAPE), np.uint8)
    for index, image in enumerate(images):
        np.save(folder / "stimuli_padded_4" / f"{index:05d}_img_{index + 10088:05d}.npy", image)
    lines: dict[str, np.ndarray] = {}
    for name in sorted({GAZE_OF[session] for session in sessions}):
        gaze = random_gaze(rng, n_test_lines + n_trials * trial_length, n_images)
        gaze[-50:] = gaze[n_test_lines : n_test_lines + 50]
        lines[name] = gaze
        (folder / "fixations" / name).write_text(gaze_text(gaze))
    for session in sessions:
        gaze = lines[GAZE_OF[session]]
        shown = np.stack([screen(images, line) for line in gaze])
        train = shown[n_test_lines:].reshape(n_trials, trial_length, *shown.shape[1:])
        test = copies(shown[:n_test_lines])
        content = {
            "train_responses": np.stack([copies(trial) for trial in train], axis=-1),
            "test_responses": np.stack([test + 0.01 * repeat for repeat in range(n_repeats)], axis=-1),
            "seeds": [2022, 2023],
            "trial_separation": {2022: list(range(n_trials // 2)), 2023: list(range(n_trials // 2, n_trials))},
        }
        write_pickle(folder / "responses" / f"cell_responses_{session}_fixation_movie.pkl", content)
    return {"images": images, "lines": lines}


# --------------------------------------------------------------------------------------------------------- white noise


def write_white_noise(
    data_dir: Path,
    *,
    values: np.ndarray | Sequence[float] = (0, 1),
    dtype: Any = np.uint8,
    sessions: Sequence[str] = ("01", "04"),
    n_trials: int = 3,
    trial_length: int = 250,
    n_test: int = 40,
    n_repeats: int = 2,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Write frames and responses; return the movies (height, width, frame) by `folder/trial`."""
    rng = np.random.default_rng(seed)
    folder = data_dir / WHITE_NOISE
    (folder / "responses").mkdir(parents=True, exist_ok=True)
    movies: dict[str, np.ndarray] = {}
    for which in sorted({noise_set(session) for session in sessions}):
        names = [f"non_repeating_stimuli_{which}/trial_{trial:03d}" for trial in range(n_trials + 1)]
        lengths = [trial_length + 7] * (n_trials + 1) + [n_test]
        for name, length in zip([*names, f"repeating_stimuli_{which}"], lengths, strict=True):
            movies[name] = np.asarray(values, dtype)[rng.integers(0, 2, (HEIGHT, WIDTH, length))]
            (folder / name).mkdir(parents=True, exist_ok=True)
            np.save(folder / name / "all_images.npy", movies[name])
    for session in sessions:
        which = noise_set(session)
        trials = [movies[f"non_repeating_stimuli_{which}/trial_{trial:03d}"] for trial in range(n_trials)]
        test = copies(cropped(movies[f"repeating_stimuli_{which}"]))
        content = {
            "train_responses": np.stack([copies(cropped(movie[..., :trial_length])) for movie in trials], axis=-1),
            "test_responses": np.stack([test] * n_repeats, axis=-1),
        }
        write_pickle(folder / "responses" / f"cell_responses_{session}_wn.pkl", content)
    return movies


def noise_set(session: str) -> int:
    """Return which of the two published sets of noise a session saw."""
    return 2 if session == "04" else 1


def cropped(movie: np.ndarray) -> np.ndarray:
    """Return a published movie (height, width, frame) as frames (frame, height, width) of the inner part."""
    return np.moveaxis(movie[TOP : HEIGHT - BOTTOM, LEFT : WIDTH - RIGHT], 2, 0).astype(float)


def write_pickle(path: Path, content: dict[str, Any]) -> None:
    """Write a dictionary of arrays the way the authors did."""
    with path.open("wb") as file:
        pickle.dump(content, file)
