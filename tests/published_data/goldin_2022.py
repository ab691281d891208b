"""Files as Goldin et al. 2022 are published: one per session, in the layout of Maheswaranathan et al. 2023."""

import h5py

FOLDER = "marre_lab/goldin_2022"


def write_session(root, session, train, test, train_response, repeats, *, label="cell{:02d}", by_cell=True):
    """Write one session: train, test (image, height, width); train_response (neuron, image) spikes in a flash.

    `repeats (repeat, neuron, image)` of the test images; `label` is how their datasets are called.
    """
    path = root / FOLDER / f"{session}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["train/stimulus"], file["test/stimulus"] = train, test
        file["train/response/binned"], file["test/response/binned"] = train_response, repeats.mean(axis=0)
        for cell in range(len(train_response) if by_cell else 0):
            file["test/repeats/" + label.format(cell + 1)] = repeats[:, cell]
    return path
