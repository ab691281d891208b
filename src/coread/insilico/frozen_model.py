"""A trained model as an experiment sees it: in eval mode, its weights fixed."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from coread.eval.predictions import evaluating


@contextmanager
def frozen(*models: nn.Module) -> Iterator[None]:
    """Put models into eval mode and let no weight ask for gradients; all is as before afterwards.

    The gradient of a stimulus has to be taken inside: some layers are computed a second time for it.
    """
    trained = [parameter for model in models for parameter in model.parameters() if parameter.requires_grad]
    with ExitStack() as modes:
        for model in models:
            modes.enter_context(evaluating(model))
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
