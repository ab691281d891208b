"""A toy session in the SENSORIUM layout, and what other exports or damage make of it."""

import io
import zipfile
from dataclasses import replace

import numpy as np

from coread.data_io.sensorium_layout import SensoriumSession, write_session

KEY = "21067-10-18"


def toy_session(seed=0, *, n_train=10, n_validation=3, n_images=2, n_repeats=3, n_neurons=5, shape=(24, 32), **changes):
    """Return a session in random order of files; test and final_test show `n_images` images `n_repeats` times."""
    rng = np.random.default_rng(seed)
    tiers = np.repeat(
        ["train", "validation", "test", "final_test"], [n_train, n_validation, *[n_images * n_repeats] * 2]
    )
    image_ids = np.concatenate(
        [np.arange(n_train + n_validation), *(np.tile(100 * k + np.arange(n_images), n_repeats) for k in (1, 2))]
    )
    order = rng.permutation(len(tiers))
    tiers, image_ids = tiers[order], image_ids[order]
    _, shown = np.unique(image_ids, return_inverse=True)
    n_trials, pixels = len(tiers), rng.integers(0, 256, (shown.max() + 1, 1, *shape), dtype=np.uint8)
    time = rng.permutation(n_trials)
    session = SensoriumSession(
        data_key=KEY,
        images=pixels[shown],
        responses=rng.gamma(1.0, 2.0, (n_trials, n_neurons)).astype(np.float32),
        tiers=tiers,
        image_ids=image_ids,
        trial_idx=time,
        timestamps=np.datetime64("2022-05-17T09:30:00") + time,
        unit_ids=np.arange(n_neurons) * 2 + 1,
        cell_motor_coordinates=rng.normal(0, 100, (n_neurons, 3)),
        behaviour=rng.normal(1, 1, (n_trials, 3)),
        pupil_center=rng.normal(0, 5, (n_trials, 2)),
    )
    return replace(session, **changes)


def npy(values, **options):
    """Return the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values), **options)
    return buffer.getvalue()


def write_changed(session, folder, changed, *, zipped):
    """Write a session with some files replaced by other bytes, or left out where these are None."""
    path = write_session(session, folder)
    for name, content in changed.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).unlink(missing_ok=True)
        if content is not None:
            (path / name).write_bytes(content)
    if not zipped:
        return path
    archive = path.with_name(path.name + ".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for member in sorted(path.rglob("*.npy")):
            file.write(member, f"{path.name}/{member.relative_to(path).as_posix()}")
            member.unlink()
    (path / "config.json").unlink()
    for place in sorted((place for place in path.rglob("*")), reverse=True):
        place.rmdir()
    path.rmdir()
    return archive
