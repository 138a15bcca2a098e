"""Float32 copies of parameters that compute in less, and the optimizer that moves them.

Imported by what trains, inside its functions, because it needs torch to be imported.
"""

from collections.abc import Mapping, Sequence

import torch


class Masters:
    """What learns, in float32; the model computes with it rounded to its own type.

    Args:
        parameters: The model's, by name.
        clip: Largest L2 norm of one step's gradient.

    Attributes:
        parameters: The model's, in order.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], clip: float) -> None:
        self._names = list(parameters)
        self.parameters = list(parameters.values())
        self._clip = clip
        # A copy even in float32: the model's own may share memory with the host's file.
        self._values = [one.detach().to(torch.float32, copy=True) for one in self.parameters]
        self._spread()
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(self._values, weight_decay=0.0, fused=True)

    def step(self, learning_rate: float) -> None:
        """Move along the gradients that the model's parameters hold, clipped, and forget them."""
        for value, parameter in zip(self._values, self.parameters, strict=True):
            value.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self._values, self._clip)
        self._move(learning_rate)

    def move(self, gradients: Sequence[torch.Tensor], learning_rate: float) -> None:
        """Move along gradients in float32, in the order of the parameters, as they are."""
        for value, gradient in zip(self._values, gradients, strict=True):
            value.grad = gradient
        self._move(learning_rate)

    def _move(self, learning_rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        for value in self._values:
            value.grad = None
        self._spread()

    def values(self) -> dict[str, torch.Tensor]:
        """A copy of what has been learned, in float32, on the CPU."""
        return {
            name: value.detach().to("cpu", copy=True)
            for name, value in zip(self._names, self._values, strict=True)
        }

    def state(self) -> dict[str, torch.Tensor]:
        """All that ``load`` needs to go on from here."""
        held = self.values()
        moments = self._optimizer.state_dict()["state"]
        for number, name in enumerate(self._names):
            for key, value in moments.get(number, {}).items():
                held[f"{key}:{name}"] = value.detach().to("cpu", copy=True)
        return held

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from where ``state`` was taken, or, without moments, from the values alone."""
        for name, value in zip(self._names, self._values, strict=True):
            value.copy_(state[name])
        moments = {
            number: {key: state[f"{key}:{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for number, name in enumerate(self._names)
            if f"step:{name}" in state
        }
        self._optimizer.load_state_dict(
            {"state": moments, "param_groups": self._optimizer.state_dict()["param_groups"]}
        )
        self._spread()

    def _spread(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_([one.data for one in self.parameters], self._values)
