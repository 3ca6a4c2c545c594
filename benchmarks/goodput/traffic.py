"""Arrivals: Poisson with a rate that changes, and bursts on top of it.

A burst model is a Markov-modulated Poisson process of two states: calm, and busy at a multiple of
the calm rate, with exponential times in each; the mean rate stays what was asked for. Rates are
constant within a cell of `CELL_US`, so times in a state are multiples of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CELL_US = 50_000.0


@dataclass(frozen=True)
class Bursts:
    """How bursty arrivals are.

    Attributes:
        ratio: Busy rate over calm rate; 1: none, plain Poisson.
        busy_s: Mean time in the busy state.
        calm_s: Mean time in the calm one.
    """

    ratio: float = 1.0
    busy_s: float = 0.5
    calm_s: float = 4.5


POISSON = Bursts()
MMPP = Bursts(ratio=2.5)


def arrivals_us(rates_per_s: Floats, bursts: Bursts, rng: np.random.Generator) -> Floats:
    """Times of all arrivals, ascending.

    Args:
        rates_per_s: Mean rate in each cell of `CELL_US`.
        bursts: How it varies around that.
        rng: Where randomness comes from.
    """
    factors = _modulation(len(rates_per_s), bursts, rng)
    counts = rng.poisson(rates_per_s * factors * CELL_US / 1e6)
    cells = np.repeat(np.arange(len(counts)), counts)
    times: Floats = np.sort((cells + rng.random(len(cells))) * CELL_US)
    return times


def _modulation(cells: int, bursts: Bursts, rng: np.random.Generator) -> Floats:
    """The factor of each cell; 1 on average."""
    if bursts.ratio == 1.0:
        return np.ones(cells)
    busy_part = bursts.busy_s / (bursts.busy_s + bursts.calm_s)
    calm = 1.0 / (1.0 + busy_part * (bursts.ratio - 1.0))
    factors = np.empty(cells)
    at, busy = 0, bool(rng.random() < busy_part)
    while at < cells:
        stay_s = rng.exponential(bursts.busy_s if busy else bursts.calm_s)
        until = at + max(1, round(stay_s * 1e6 / CELL_US))
        factors[at:until] = calm * bursts.ratio if busy else calm
        at, busy = until, not busy
    return factors
