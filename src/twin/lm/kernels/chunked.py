"""Both recurrences as matrix products over chunks of time, in plain torch on any device.

Inside a chunk all decays are differences of cumulative log decays, so that strong decays cannot
overflow; between chunks the state is carried in float32. Under autocast Mamba-2's products are in
bfloat16.
"""

import torch
from torch import Tensor

from twin.lm.kernels.composed import Composed, wide

CHUNK = 32
PAIR_CHUNK = 16
SSD_CHUNK = 64
SAFE_EXPONENT = 80.0
"""Float32 overflows at exp(88.7)."""


def wkv6(
    r_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, logw_BTHK: Tensor, u_HK: Tensor,
    state_BHKV: Tensor, *, logw_min: float | None = None, chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """RWKV-6 in chunks. With `logw_min` known, decays are split around the middle of a chunk
    into two bounded factors and all is matrix products; without, every pair of tokens gets its
    own difference, which is right for any decay and about three times slower."""
    is_bounded = logw_min is not None and -logw_min * chunk / 2 <= SAFE_EXPONENT
    size = chunk if is_bounded else PAIR_CHUNK
    time = r_BTHK.shape[1]
    bonus = (r_BTHK * u_HK * k_BTHK).sum(-1, keepdim=True) * v_BTHV
    if time == 0:
        return bonus, state_BHKV
    r, k, v, logw = (_chunks(x, size) for x in (r_BTHK, k_BTHK, v_BTHV, logw_BTHK))
    total = logw.cumsum(-2)  # b_t: everything up to and with t
    before = total - logw  # b_{t-1}
    last = total[..., -1:, :]
    # Within the chunk: r_t exp(b_{t-1} - b_j) k_j for j < t.
    if is_bounded:
        middle = total[..., size // 2 - 1 : size // 2, :]
        scores = (r * torch.exp(before - middle)) @ (k * torch.exp(middle - total)).mT
    else:
        gaps = before[..., :, None, :] - total[..., None, :, :]
        gaps = gaps.masked_fill(_upper(size, r.device, with_diagonal=True)[..., None], -torch.inf)
        scores = torch.einsum("...tk,...jk,...tjk->...tj", r, k, torch.exp(gaps))
    scores = scores.masked_fill(_upper(size, r.device, with_diagonal=True), 0.0)
    inside = scores @ v
    # From chunk to chunk: what each adds to the state, and what it keeps of it.
    added = (k * torch.exp(last - total)).mT @ v
    kept = torch.exp(last).mT
    states, state = _carry(state_BHKV, added, kept)
    outside = (r * torch.exp(before)) @ states
    return _joined(inside + outside, time) + bonus, state


def ssd(
    x_BTMP: Tensor, loga_BTM: Tensor, b_BTN: Tensor, c_BTN: Tensor, state_BMPN: Tensor, *,
    chunk: int = SSD_CHUNK,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mamba-2 in chunks (arXiv 2405.21060, listing 1), exact for any decay."""
    time = x_BTMP.shape[1]
    if time == 0:
        return x_BTMP, state_BMPN
    x = _chunks(x_BTMP, chunk)
    b, c = (_chunks(y[:, :, None], chunk) for y in (b_BTN, c_BTN))
    # Neighbours differ by little where the sum is large: float64 until they are subtracted.
    exact = _chunks(loga_BTM[..., None], chunk)[..., 0].double().cumsum(-1)
    gaps = (exact[..., :, None] - exact[..., None, :]).to(x.dtype)
    total = exact.to(x.dtype)
    gaps = gaps.masked_fill(_upper(chunk, x.device, with_diagonal=False), -torch.inf)
    scores = _product(c, b.transpose(-1, -2)) * torch.exp(gaps)
    inside = _product(scores, x)
    last = total[..., -1:]
    weighted = x * torch.exp(gaps[..., -1, :])[..., None]
    added = _product(weighted.transpose(-1, -2), b)
    states, state = _carry(state_BMPN, added, torch.exp(last)[..., None])
    outside = _product(c, states.transpose(-1, -2)) * torch.exp(total)[..., None]
    return _joined(inside + outside, time), state


def _chunks(x_BTHC: Tensor, size: int) -> Tensor:
    """(B, T, H, C) to (B, H, chunks, size, C), the end filled with zeros: no decay, no input."""
    batch, time, heads, channels = x_BTHC.shape
    if time % size:
        x_BTHC = torch.nn.functional.pad(x_BTHC, (0, 0, 0, 0, 0, size - time % size))
    return x_BTHC.reshape(batch, -1, size, heads, channels).permute(0, 3, 1, 2, 4)


def _joined(x: Tensor, time: int) -> Tensor:
    """Back from chunks to (B, T, H, C)."""
    batch, heads, chunks, size, channels = x.shape
    whole = x.permute(0, 2, 3, 1, 4).reshape(batch, chunks * size, heads, channels)
    return whole[:, :time]


def _carry(state: Tensor, added: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The state before each chunk, and the one after the last. Chunks are on axis 2."""
    before = []
    for chunk in range(added.shape[2]):
        before.append(state)
        state = kept[:, :, chunk] * state + added[:, :, chunk]
    return torch.stack(before, dim=2), state


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b; under autocast a bfloat16 product with a float32 sum. The rest stays float32."""
    return (a @ b).to(a.dtype)


def _upper(size: int, device: torch.device, *, with_diagonal: bool) -> Tensor:
    """True where j >= t (or j > t): pairs that do not see each other. Such entries may have
    overflowed, so they are filled, never multiplied by zero."""
    full = torch.ones(size, size, dtype=torch.bool, device=device)
    return full.triu(0 if with_diagonal else 1)


class Chunked(Composed):
    """The default where nothing faster can run."""

    name = "chunked"

    def wkv6(
        self, r_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, logw_BTHK: Tensor, u_HK: Tensor,
        state_BHKV: Tensor, *, logw_min: float | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        # Not in bfloat16: the gradient of a decay is a difference of two that are nearly equal, and
        # lost up to 38 % where most decays are at the floor.
        with torch.autocast(r_BTHK.device.type, enabled=False):
            return wkv6(
                *(wide(x) for x in (r_BTHK, k_BTHK, v_BTHV, logw_BTHK, u_HK, state_BHKV)),
                logw_min=logw_min,
            )

    def ssd(
        self, x_BTMP: Tensor, loga_BTM: Tensor, b_BTN: Tensor, c_BTN: Tensor, state_BMPN: Tensor
    ) -> tuple[Tensor, Tensor]:
        return ssd(*(wide(x) for x in (x_BTMP, loga_BTM, b_BTN, c_BTN, state_BMPN)))


class Compiled(Chunked):
    """The same, for a model that compiles each block as a whole (`HybridLM` looks at the name):
    what a chunk costs is its elementwise operations, and those are fused only together with their
    surroundings."""

    name = "compiled"
