"""Training with several processes: who writes, what is agreed on, how gradients are averaged.

Owns the seam between the loop and `accelerate`. Alone, everything here does nothing. Started under
`accelerate launch` (or torchrun), each process takes its share of every batch, and gradients are
averaged by DistributedDataParallel; with `--use_fsdp` each process also keeps but its share of the
weights, their gradients, the optimizer's memory and the average (torch's fully_shard, FSDP2).
"""

import atexit
import os
import time
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch
from torch import Tensor, nn

from twin.lm.errors import BadConfig

if TYPE_CHECKING:
    from twin.lm.model import HybridLM


LAST_S: Final = 0.5
"""That a process of several waits before it ends."""


class Team(Protocol):
    rank: int
    world: int
    sharing: int
    """Processes that have the weights together."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        ...

    def share(self, model: "HybridLM") -> None:
        """Leaves each process its part of the weights, where they are to be shared. Before anything
        takes hold of them."""
        ...

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to call in place of `model`; its gradients are everybody's mean."""
        ...

    def total(self, parts: Tensor) -> Tensor:
        """The sum over everybody's part of the weights."""
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

    rank, world, sharing = 0, 1, 1

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def share(self, model: "HybridLM") -> None:
        return

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def total(self, parts: Tensor) -> Tensor:
        return parts

    def mean(self, value: float) -> float:
        return value

    def first(self, value: float) -> float:
        return value

    def wait(self) -> None:
        return


class Accelerated:
    """Several processes, as `accelerate` has set them up; each has all weights."""

    sharing = 1

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
            DistributedType.FSDP,
            DistributedType.NO,
        ):
            raise BadConfig(
                f"{self._accelerator.distributed_type} is not supported here. Use `accelerate "
                "launch` with `--multi_gpu` or `--use_fsdp`, or `torchrun` on CPUs."
            )
        _leave_at_exit()
        self.rank: int = self._accelerator.process_index
        self.world: int = self._accelerator.num_processes

    @property
    def device(self) -> torch.device:
        device: torch.device = self._accelerator.device
        return device

    def share(self, model: "HybridLM") -> None:
        return

    def wrap(self, model: nn.Module) -> nn.Module:
        wrapped: nn.Module = self._accelerator.prepare_model(model)
        return wrapped

    def total(self, parts: Tensor) -> Tensor:
        return parts

    def mean(self, value: float) -> float:
        number = torch.tensor([value], dtype=torch.float64, device=self.device)
        return float(self._accelerator.reduce(number, reduction="mean").item())

    def first(self, value: float) -> float:
        from accelerate.utils import broadcast

        number = torch.tensor([value], dtype=torch.float64, device=self.device)
        return float(broadcast(number).item())

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()


class Sharded(Accelerated):
    """Several processes, each with a share of the weights: a block's are put together while it
    computes. Of what `accelerate` can be told about FSDP the rest is refused or of no effect."""

    def __init__(self) -> None:
        for name, told in _REFUSED.items():
            if _is_set(name):
                raise BadConfig(f"{told} is not supported here. Leave it out.")
        super().__init__()
        self.sharing = self.world

    def share(self, model: "HybridLM") -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        if model.config.trainable_h0:
            raise BadConfig(
                "`trainable_h0` is used outside the network's blocks and cannot be shared. Leave "
                "it out, or `--use_fsdp`."
            )
        mesh = init_device_mesh(self.device.type, (self.world,))
        # Also the root, which else would go on with what it had before an average came in.
        for part in (*model.blocks, model):
            fully_shard(part, mesh=mesh, reshard_after_forward=True)

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def total(self, parts: Tensor) -> Tensor:
        summed: Tensor = self._accelerator.reduce(parts.to(self.device), reduction="sum")
        return summed.cpu()


_ASKED_TO_SHARE: Final = "ACCELERATE_USE_FSDP"
_REFUSED: Final = {
    "FSDP_OFFLOAD_PARAMS": "`--fsdp_offload_params`",
    "FSDP_ACTIVATION_CHECKPOINTING": "`--fsdp_activation_checkpointing`",
}
"""What `accelerate launch` leaves in the environment."""


@cache
def _leave_at_exit() -> None:
    """A process that ends badly takes the others with it, the first one too, which may still be
    writing the model."""
    atexit.register(_leave)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        # Gloo's threads may still hold the tensors of the last collective. One that asks for the
        # interpreter, to let go of them, once that is ending aborts the process; asleep we give it.
        time.sleep(LAST_S)


def gather() -> Team:
    """The processes that were started together; usually this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1") or 1) < 2:
        return Alone()
    return Sharded() if _is_set(_ASKED_TO_SHARE) else Accelerated()


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")
