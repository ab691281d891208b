import collections
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from coread.data_io.restricted_pickle import MAPPED_BYTES, PickleError, PickleFile, load_pickle

CONTENT = {
    "train": np.random.default_rng(0).normal(size=(2, 30, 18, 16)).astype(np.float32),
    "doubles": np.arange(20_000, dtype=np.float64).reshape(100, 200),
    "fortran": np.asfortranarray(np.arange(24).reshape(2, 3, 4)),
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    "big_endian": np.arange(5, dtype=">i2"),
    "sequences": np.arange(6, dtype=np.uint8).reshape(3, 2),
    "texts": np.array(["left", "right"]),
    "empty": np.zeros((0, 3)),
    "objects": np.array([np.arange(2), np.arange(3), None], dtype=object),
    "movie_stats": {"dichromatic": {"mean": np.array([36.979]), "sd": np.float64(36.985)}},
    "plain": [1, 2.5, "a", b"bytes", None, True, (1, [2]), {3}, frozenset([4]), 1 + 2j, 10**30],
    "ordered": collections.OrderedDict(b=1, a=2),
    "long_bytes": b"x" * (2 * MAPPED_BYTES),
    "long_text": "y" * (2 * MAPPED_BYTES),
}


def same(found, expected) -> bool:
    if isinstance(expected, np.ndarray):
        if expected.dtype.kind == "O":
            return found.shape == expected.shape and all(map(same, found.flat, expected.flat))
        return found.dtype == expected.dtype and found.shape == expected.shape and np.array_equal(found, expected)
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_come_back_from_every_protocol(tmp_path, protocol):
    path = tmp_path / "content.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol))
    found = load_pickle(path)
    assert list(found) == list(CONTENT)
    for key, expected in CONTENT.items():
        assert same(found[key], expected), key


def test_names_of_numpy_1_are_known(tmp_path):
    path = tmp_path / "content.pkl"
    old = pickle.dumps(CONTENT["doubles"], 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in old
    path.write_bytes(old)
    np.testing.assert_array_equal(load_pickle(path), CONTENT["doubles"])


@pytest.mark.parametrize("protocol", [4, 5])
def test_large_arrays_are_views_of_the_file_and_survive_a_release(tmp_path, protocol):
    path = tmp_path / "content.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol))
    file = PickleFile(path)
    movie = file.content["train"]
    assert not movie.flags.owndata
    assert not movie.flags.writeable
    file.release()
    np.testing.assert_array_equal(movie, CONTENT["train"])


def test_an_array_that_occurs_twice_and_a_list_that_holds_itself(tmp_path):
    shared = np.arange(3)
    content: list = [shared, {"again": shared}]
    content.append(content)
    path = tmp_path / "content.pkl"
    path.write_bytes(pickle.dumps(content))
    found = load_pickle(path)
    assert found[1]["again"] is found[0]
    assert found[2] is found


class Runs:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (lambda marker: Runs(os.system, f"touch {marker}"), r"posix\.system"),
        (lambda marker: {"train": Runs(Path.touch, marker)}, "getattr|pathlib"),
        (lambda marker: Runs(eval, f"open({str(marker)!r}, 'w')"), r"builtin.*\.eval"),
        (lambda marker: Runs(np.save, str(marker), np.zeros(2)), r"numpy\.save"),
        (lambda marker: np.zeros(2, [("a", "f4")]), "fields|dtype"),
        (lambda marker: np.zeros(2, "datetime64[s]"), "dtype"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_anything_else_is_refused_by_name_and_not_run(tmp_path, content, name, protocol):
    marker, path = tmp_path / "marker", tmp_path / "crafted.pkl"
    path.write_bytes(pickle.dumps(content(marker), protocol))
    with pytest.raises(PickleError, match=rf"crafted\.pkl: refused, because it asks for .*({name})"):
        load_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("crafted", "name"),
    [
        (b"cnumpy\nndarray.tofile\n.", r"numpy\.ndarray\.tofile"),  # a path of attributes
        (b"\x80\x04cbuiltins\nset\n}b.", "attributes of type"),  # the state of a class
        (b"Pname\n.", "outside of the file"),
        (b"\x80\x02\x82\x01.", "registered extension"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(tR.", "without values"),
    ],
)
def test_other_ways_around_are_refused(tmp_path, crafted, name):
    path = tmp_path / "crafted.pkl"
    path.write_bytes(crafted)
    with pytest.raises(PickleError, match=name):
        load_pickle(path)


def test_damage_names_the_file(tmp_path):
    path = tmp_path / "content.pkl"
    whole = pickle.dumps(CONTENT, 4)
    for damaged in (b"", b"not a pickle", whole[: len(whole) // 2], whole[:-1], b"\xff" + whole):
        path.write_bytes(damaged)
        with pytest.raises(PickleError, match=r"content\.pkl"):
            load_pickle(path)
    with pytest.raises(PickleError, match="there is no such file"):
        load_pickle(tmp_path / "absent.pkl")
