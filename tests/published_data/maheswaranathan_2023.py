"""Files as Maheswaranathan et al. 2023 deposited them, with what the archive holds beside."""

import h5py
import numpy as np

ARCHIVE = "baccus_lab/maheswaranathan_2023/neural_code_data"


def write_session(
    root,
    session,
    train,
    test,
    train_response,
    repeats,
    *,
    stimulus="naturalscene",
    response_type="firing_rate_10ms",
    layout="cells",
    inside="neural_code_data/ganglion_cell_data",
):
    """Write one session; the test response is the average of the repeats.

    train, test (frame, height, width); train_response (neuron, bin); repeats (repeat, neuron, bin). `layout` of the
    repeats is "cells" (one dataset per cell), "stacked" (one per response type) or None.
    """
    path = root / ARCHIVE / inside / session / f"{stimulus}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    n_neurons = len(train_response)
    with h5py.File(path, "w") as file:
        for part, movie, response in (("train", train, train_response), ("test", test, repeats.mean(axis=0))):
            file[f"{part}/stimulus"] = movie
            file[f"{part}/time"] = np.arange(len(movie)) / 100
            file[f"{part}/response/{response_type}"] = response
            file[f"{part}/response/binned"] = np.round(response / 3)
        if layout == "stacked":
            file[f"test/repeats/{response_type}"] = repeats
        elif layout == "cells":
            for cell in range(n_neurons):
                file[f"test/repeats/cell{cell + 1:02d}"] = repeats[:, cell]
        for cell in range(n_neurons):
            file[f"spikes/cell{cell + 1:02d}"] = np.sort(np.random.default_rng(cell).random(20 + cell))
    return path
