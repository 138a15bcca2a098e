"""The norms of a layer: a few thousand numbers that scale what its products read and put out.

Imported by what trains, inside its functions, because it needs torch to be imported.
"""

from collections.abc import Iterator

import torch

from not_core.errors import TrainingError


def norms_of(layer: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Parameters of a layer's normalisations, by name within the layer.

    Families write their own classes for them; what they share is the word in the class's name.

    Raises:
        TrainingError: It has none that learn.
    """
    found = [
        (f"{name}.{own}", parameter)
        for name, module in layer.named_modules()
        if "norm" in type(module).__name__.lower()
        for own, parameter in module.named_parameters(recurse=False)
    ]
    if not found:
        raise TrainingError(
            f"{type(layer).__name__} has no norm that learns; recover its layers instead"
        )
    yield from found
