"""A tensor that several processes share among them: this process's own part, and the whole.

Owns the difference between a plain tensor and torch's DTensor, so that optimizer, average and
snapshot read alike with and without it. When weights are shared, and among whom, `team` decides.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn


def is_shared(tensor: Tensor) -> bool:
    """Whether it is a DTensor, whose module takes half a second to import."""
    return hasattr(tensor, "full_tensor")


def own(tensor: Any) -> Tensor:
    """What this process holds of it, the same memory; all of a plain tensor."""
    part: Tensor = tensor.to_local() if is_shared(tensor) else tensor
    return part


def whole(tensor: Any) -> Tensor:
    """All of it. Where it is shared, all processes have to ask."""
    full: Tensor = tensor.full_tensor() if is_shared(tensor) else tensor
    return full


def shared_as(like: Any, tensor: Tensor) -> Tensor:
    """A whole tensor, which every process has, shared in the way `like` is."""
    if not is_shared(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def gathered(tensors: Iterable[tuple[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
    """The whole of each, one after another, for the process that keeps them; {} for the others,
    which have to ask all the same."""
    found = {}
    for name, tensor in tensors:
        full = whole(tensor)
        if keep:
            found[name] = full.cpu() if is_shared(tensor) else full
    return found


def load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies whole weights into a model, of which each process may hold a part."""
    held = model.state_dict()
    model.load_state_dict({name: shared_as(held[name], one) for name, one in weights.items()})
