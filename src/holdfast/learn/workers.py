"""The processes of one run (`accelerate launch`, `torchrun`): each takes its rows of a batch, gradients are added up.

Sums travel and not means, so that two processes do what one does, however the scored tokens fall. A wrapper that hooks
into `backward` would not do: an objective may pass through its model several times, or not at all for a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Workers:
    """This process among those of the run; alone, it costs nothing."""

    def __init__(self) -> None:
        from accelerate import PartialState

        self._state = PartialState(cpu=not torch.cuda.is_available())

    @property
    def first(self) -> bool:
        """True in the process that writes."""
        return bool(self._state.is_main_process)

    @property
    def prefix(self) -> str:
        """The beginning of the names of this process's own files."""
        return "" if self.first else f"process-{self._state.process_index}-"

    def share(self, rows: Sequence[Any]) -> Sequence[Any]:
        """Returns the rows of a batch that this process reads."""
        return rows[self._state.process_index :: self._state.num_processes]

    def add(self, *numbers: float) -> tuple[float, ...]:
        """Returns the sums over all processes."""
        if self._state.num_processes == 1:
            return numbers
        return tuple(self._add(torch.tensor(numbers, dtype=torch.float64, device=self._state.device)).tolist())

    def any(self, asked: bool) -> bool:
        """Returns True if it is true in any process, so that all stop at the same step."""
        return bool(self.add(float(asked))[0])

    def add_gradients(self, parameters: Sequence[torch.nn.Parameter], scale: float) -> None:
        """Adds up the gradients of all processes and scales them."""
        for parameter in parameters:
            if self._state.num_processes > 1:
                grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self._add(grad)
            if parameter.grad is not None:
                parameter.grad.mul_(scale)

    def wait(self) -> None:
        """Waits until every process is here."""
        self._state.wait_for_everyone()

    def _add(self, tensor: Tensor) -> Tensor:
        torch.distributed.all_reduce(tensor)
        return tensor
