"""Random numbers that depend on the seed and an image's draw number alone.

A counter-based generator (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405) has no state, so nothing has to
be saved or synchronized between processes, workers and devices.
"""

import torch

# SplitMix64 (Steele et al. 2014, https://doi.org/10.1145/2714064.2660195), its constants as signed 64-bit integers
_STEP = 0x9E3779B97F4A7C15 - 2**64
_MIX = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64), (31, 1))


def uniform(draws: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Compute `count` numbers in [0, 1) from each draw number (B,) int64 and the seed: (B, count)."""
    lane = torch.arange(count, device=draws.device)
    key = torch.full_like(draws, seed) * _STEP  # int64 wraps around
    state = splitmix64(splitmix64(draws + key)[:, None] + lane * _STEP)
    return (state & (2**24 - 1)).float() / 2**24  # float32 holds 24 bits


def splitmix64(state: torch.Tensor) -> torch.Tensor:
    """Apply the output function of SplitMix64 to int64, whose products wrap around like those of unsigned integers."""
    for shift, factor in _MIX:
        state = (state ^ ((state >> shift) & (2 ** (64 - shift) - 1))) * factor  # a logical shift
    return state
