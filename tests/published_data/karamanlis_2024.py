"""MATLAB v7.3 files as Karamanlis et al. 2024 deposited them: HDF5 behind a block of 512 bytes, axes reversed."""

import h5py
import numpy as np

SESSIONS = "gollisch_lab/karamanlis_2024/sessions"


def screen_pixel(image, gaze, row, column, screen):
    """Return what one screen pixel shows, in the 1-based numbers of the authors' description; 0 outside the image."""
    height, width = screen
    x, y = gaze
    image_row, image_column = y - height // 2 + row, x - width // 2 + column
    inside = 1 <= image_row <= image.shape[0] and 1 <= image_column <= image.shape[1]
    return float(image[image_row - 1, image_column - 1]) if inside else 0.0


def screens(images, fixations, screen):
    """Return the movie (frame, row, column) on a screen (height, width), one pixel at a time."""
    height, width = screen
    return np.array(
        [
            [
                [screen_pixel(images[number - 1], (x, y), row, column, screen) for column in range(1, width + 1)]
                for row in range(1, height + 1)
            ]
            for number, x, y in fixations
        ],
        np.float32,
    )


def write_session(root, session, *, images, fixations, counts, transposed=True, stimulus="fixationmovie", expdata=None):
    """Write one session; `images`, `fixations` and `counts` hold "running" and "frozen".

    images (image, row, column); running fixations (block, frame, 3), frozen (frame, 3); running counts
    (block, bin, neuron), frozen (trial, bin, neuron). `expdata` holds pixelsize in m and refreshrate in Hz.
    """
    folder = root / SESSIONS / session / session
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stimulus}_data.mat"
    with matlab_file(path) as file:
        for part in ("running", "frozen"):
            axes = (0, 2, 1) if transposed else (0, 1, 2)
            file.create_dataset(
                f"{part}Images", data=images[part].transpose(axes), chunks=(1, *images[part].transpose(axes).shape[1:])
            )
            file[f"{part}fixations"] = fixations[part].astype(np.float64)
            file[f"{part}bin"] = counts[part].astype(np.float64)
    if expdata is not None:
        with matlab_file(folder / "expdata.mat") as file:
            for key, value in expdata.items():
                file[f"projector/{key}"] = np.array([[value]])
    return path


def matlab_file(path):
    """Open a new file with the block of text that MATLAB puts before the HDF5 content."""
    file = h5py.File(path, "w", userblock_size=512)
    file.close()
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: PCWIN64".ljust(124) + b"\x00\x02IM")
    return h5py.File(path, "a")
