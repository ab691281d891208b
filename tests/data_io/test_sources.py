"""The registry of readers."""

import subprocess
import sys

import pytest

from coread.data_io.sources import READERS, build_recording, build_stimuli, list_sessions, source_files
from coread.signatures import module_constant
from tests.data_io.test_simulated_retina import configuration


@pytest.mark.parametrize("question", [list_sessions, build_stimuli])
def test_unknown_reader_lists_the_known_ones(question):
    with pytest.raises(ValueError, match=r"data_io.reader is 'spikes'; the known readers are \['goldin_2022', .*'sim"):
        question({"dataset": "x", "reader": "spikes"})


def test_registry_is_a_literal_that_names_complete_modules():
    """The workflow reads it without importing, to know which code a dataset depends on."""
    assert module_constant("coread.data_io.sources", "READERS") == READERS
    for module in READERS.values():
        names = vars(__import__(module, fromlist=["_"]))
        assert {"list_sessions", "build_stimuli", "build_recording", "source_files"} <= set(names)


def test_a_recording_can_be_built_without_its_stimuli_at_hand():
    config = configuration(presentations__noise_trials=1, presentations__movie_trials=1)
    recording = build_recording(config, "retina_0")
    again = build_recording(config, "retina_0", None, build_stimuli(config))
    assert (recording.responses == again.responses).all()


def test_a_simulation_has_no_source_files():
    assert source_files(configuration(), None) == source_files(configuration(), "retina_0") == []


def test_no_reader_imports_torch():
    modules = [*READERS.values(), "coread.data_io.sources", "coread.data_io.tutorial_data"]
    code = f"import sys, importlib; [importlib.import_module(m) for m in {modules}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
