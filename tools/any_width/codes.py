"""Codes for blocks of weights: tables of levels behind a window of the stream, scales, and the searches that fill them.

A code of `bits` bits and a table of `2 ** L` entries: the weight is `scale * table[window]`, where the window is the
newest `L` bits of the block's stream, this weight's code in the lowest ones; bits older than the block are zero. With
`L == bits` it is an ordinary code book (uniform, Lloyd-Max); with more it is a trellis code (Marcellin and Fischer
1990, "Trellis coded quantization"), whose best path is found by Viterbi's search.
"""

import json
from pathlib import Path

import numpy as np
from numba import njit

LANES = 16  # Scales tried for each block.
GROUP = 8  # Blocks searched at once.
FAR = np.float32(1e30)
TABLES = json.loads(Path(__file__).with_name("tables.json").read_text())  # Made by train.py.


@njit(fastmath=True, cache=True)
def lane_errors(x, weight, scales, table, bits):
    """The least weighted squared error of every block at each of its scales, (n_blocks, LANES).

    x and weight (n_blocks, n), scales (n_blocks, LANES), table (2 ** L). `GROUP` blocks go at once, so that the
    innermost loop is long enough to be made of vectors.
    """
    n_blocks, n = x.shape
    states, branches, lanes = table.size >> bits, 1 << bits, GROUP * LANES
    cost = np.empty((states, lanes), np.float32)
    fresh = np.empty((states, lanes), np.float32)
    value, heavy, scale = np.empty(lanes, np.float32), np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    errors = np.empty((n_blocks, LANES), np.float32)
    for first in range(0, n_blocks, GROUP):
        for lane in range(lanes):
            block = min(first + lane // LANES, n_blocks - 1)
            scale[lane] = scales[block, lane % LANES]
        cost[:] = FAR
        cost[0] = 0.0
        for i in range(n):
            for lane in range(lanes):
                block = min(first + lane // LANES, n_blocks - 1)
                value[lane], heavy[lane] = x[block, i], weight[block, i]
            fresh[:] = FAR
            for window in range(states * branches):
                level, before, after = table[window], cost[window >> bits], fresh[window & (states - 1)]
                for lane in range(lanes):
                    d = value[lane] - level * scale[lane]
                    after[lane] = min(after[lane], before[lane] + heavy[lane] * d * d)
            cost, fresh = fresh, cost
        for lane in range(min(lanes, (n_blocks - first) * LANES)):
            least = FAR
            for state in range(states):
                least = min(least, cost[state, lane])
            errors[first + lane // LANES, lane % LANES] = least
    return errors


@njit(fastmath=True, cache=True)
def best_windows(x, weight, scale, table, bits):
    """The windows of every block's best path at its one scale, (n_blocks, n), and the errors, (n_blocks).

    All costs of the way forward are kept, and the way back asks again which branch was the cheapest.
    """
    n_blocks, n = x.shape
    states, branches, lanes = table.size >> bits, 1 << bits, GROUP * LANES
    cost = np.empty((n + 1, states, lanes), np.float32)
    value, heavy, scales = np.empty(lanes, np.float32), np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    windows = np.empty((n_blocks, n), np.int32)
    errors = np.empty(n_blocks, np.float32)
    for first in range(0, n_blocks, lanes):
        cost[:] = FAR
        cost[0, 0] = 0.0
        for i in range(n):
            for lane in range(lanes):
                block = min(first + lane, n_blocks - 1)
                value[lane], heavy[lane], scales[lane] = x[block, i], weight[block, i], scale[block]
            for window in range(states * branches):
                level, before, after = table[window], cost[i, window >> bits], cost[i + 1, window & (states - 1)]
                for lane in range(lanes):
                    d = value[lane] - level * scales[lane]
                    after[lane] = min(after[lane], before[lane] + heavy[lane] * d * d)
        for lane in range(min(lanes, n_blocks - first)):
            block, state = first + lane, np.argmin(cost[n, :, lane])
            errors[block] = cost[n, state, lane]
            for i in range(n - 1, -1, -1):
                least, at = 2 * FAR, state
                for window in range(state, states * branches, states):
                    d = x[block, i] - table[window] * scale[block]
                    t = cost[i, window >> bits, lane] + weight[block, i] * d * d
                    if t < least:
                        least, at = t, window
                windows[block, i] = at
                state = at >> bits
    return windows, errors


@njit(fastmath=True, cache=True)
def accumulate(x, weight, windows, scale, sums, counts):
    """Adds to each window's least-squares level: `sums / counts` is the level that fits `x / scale` best."""
    for block in range(x.shape[0]):
        for i in range(x.shape[1]):
            weighted = weight[block, i] * scale[block]
            sums[windows[block, i]] += weighted * x[block, i]
            counts[windows[block, i]] += weighted * scale[block]


@njit(fastmath=True, cache=True)
def lattice_errors(x, weight, scales, grid):
    """As `lane_errors` for groups of eight weights: magnitudes from `grid` (n, 8), an even number of minus signs."""
    n_blocks, n = x.shape
    errors = np.zeros((n_blocks, LANES), np.float32)
    for block in range(n_blocks):
        for lane in range(LANES):
            for group in range(0, n, 8):
                errors[block, lane] += lattice_group(x[block], weight[block], group, scales[block, lane], grid)[0]
    return errors


@njit(fastmath=True, cache=True)
def lattice_group(x, weight, group, scale, grid):
    """The least error of eight weights from `group`, the vector of the grid, and the place of a flipped sign or -1."""
    odd = False
    for i in range(group, group + 8):
        odd ^= x[i] < 0
    least, best, flipped = FAR, 0, -1
    for vector in range(grid.shape[0]):
        error, cheapest, flip = np.float32(0.0), FAR, -1
        for i in range(8):
            size, level, heavy = abs(x[group + i]), grid[vector, i] * scale, weight[group + i]
            error += heavy * (size - level) ** 2
            extra = 4 * heavy * size * level
            if extra < cheapest:
                cheapest, flip = extra, i
        if odd:
            error += cheapest
        if error < least:
            least, best, flipped = error, vector, flip if odd else -1
    return least, best, flipped


@njit(fastmath=True, cache=True)
def lattice_values(x, weight, scale, grid):
    """The best values of every block at its scale, (n_blocks, n)."""
    values = np.empty_like(x)
    for block in range(x.shape[0]):
        for group in range(0, x.shape[1], 8):
            _, vector, flipped = lattice_group(x[block], weight[block], group, scale[block], grid)
            for i in range(8):
                sign = -1 if (x[block, group + i] < 0) != (i == flipped) else 1
                values[block, group + i] = sign * grid[vector, i] * scale[block]
    return values


def uniform(bits):
    """Evenly spaced levels, zero between the middle two."""
    return (np.arange(1 << bits) - ((1 << bits) - 1) / 2).astype(np.float32)


def table_of(code, bits):
    """The levels of a code by its name; those of more than 64 entries or 6 bits are always uniform."""
    if code == "uniform" or bits > 6:
        return uniform(bits)
    return np.array(TABLES[f"{code if bits < 6 else 'lloyd'} {bits}"], np.float32)


def iq2_grid():
    """The 256 vectors of eight magnitudes of ggml's IQ2_XXS, as the `gguf` package has them."""
    from gguf.quants import IQ2_XXS

    IQ2_XXS.init_grid()
    return np.ascontiguousarray(IQ2_XXS.grid.reshape(256, 8), np.float32)
