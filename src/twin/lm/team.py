"""Training with several processes: who writes, what is agreed on, how gradients are averaged.

Owns the seam between the loop and `accelerate`. Alone, everything here does nothing. Started under
`accelerate launch` (or torchrun), each process takes its share of every batch, and gradients are
averaged by DistributedDataParallel. Sharded parameters (FSDP) are refused: Muon needs whole
matrices, and the largest preset takes 2.5 GB.
"""

import os
from typing import Any, Protocol

import torch
from torch import nn

from twin.lm.errors import BadConfig


class Team(Protocol):
    rank: int
    world: int

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        ...

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to call in place of `model`; its gradients are everybody's mean."""
        ...

    def mean(self, value: float) -> float:
        """Of everybody's values; no number where one is none."""
        ...

    def first(self, value: float) -> float:
        """The value of the first process, so that all take the same turn."""
        ...

    def wait(self) -> None:
        """Until all are here."""
        ...


class Alone:
    """One process."""

    rank, world = 0, 1

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def mean(self, value: float) -> float:
        return value

    def first(self, value: float) -> float:
        return value

    def wait(self) -> None:
        return


class Accelerated:
    """Several processes, as `accelerate` has set them up."""

    def __init__(self) -> None:
        try:
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs, DistributedType
        except ImportError as error:
            raise BadConfig(
                "Training with several processes needs the package `accelerate`. Install it with "
                '`pip install "cognitive-twin[lm]"`, or start one process.'
            ) from error
        # h0 has no gradient in a batch whose streams all go on.
        options = DistributedDataParallelKwargs(find_unused_parameters=True)
        self._accelerator: Any = Accelerator(
            cpu=not torch.cuda.is_available(), kwargs_handlers=[options]
        )
        if self._accelerator.distributed_type not in (
            DistributedType.MULTI_CPU,
            DistributedType.MULTI_GPU,
            DistributedType.NO,
        ):
            raise BadConfig(
                f"{self._accelerator.distributed_type} is not supported here. Use several GPUs or "
                "CPU processes without sharding (`--multi_gpu`, or `--cpu`)."
            )
        self.rank: int = self._accelerator.process_index
        self.world: int = self._accelerator.num_processes

    @property
    def device(self) -> torch.device:
        device: torch.device = self._accelerator.device
        return device

    def wrap(self, model: nn.Module) -> nn.Module:
        wrapped: nn.Module = self._accelerator.prepare_model(model)
        return wrapped

    def mean(self, value: float) -> float:
        number = torch.tensor([value], dtype=torch.float64, device=self.device)
        return float(self._accelerator.reduce(number, reduction="mean").item())

    def first(self, value: float) -> float:
        from accelerate.utils import broadcast

        number = torch.tensor([value], dtype=torch.float64, device=self.device)
        return float(broadcast(number).item())

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()


def gather() -> Team:
    """The processes that were started together; usually this one alone."""
    return Accelerated() if int(os.environ.get("WORLD_SIZE", "1") or 1) > 1 else Alone()
