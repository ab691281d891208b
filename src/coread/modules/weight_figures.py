"""What draws the weights of modules, found when it is asked for."""

import importlib
from typing import Any


def weight_figures() -> Any:
    """Return the module that draws single weights.

    Imported by its name: a figure decides no number, so no training and no score may depend on the code that draws it.
    """
    return importlib.import_module("coread.plotting.single_weights")
