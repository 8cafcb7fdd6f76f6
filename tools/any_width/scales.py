"""Scales and minimums of blocks: their formats, their true bits, and the search for the best one of every block."""

import numpy as np

from any_width import codes
from any_width.codes import LANES

# (bits of each block's scale, bits for each row, bits for each tensor)
BITS = {
    "f32": (32, 0, 0), "f16": (16, 0, 0), "e5m3": (8, 0, 0), "e4m4": (8, 0, 0), "e4m3+tensor": (8, 0, 32),
    "int6+row": (6, 16, 0), "int4+row": (4, 16, 0), "int4+row8": (4, 8, 0),
}  # fmt: skip
STEPS = {"int6+row": 63, "int4+row": 15, "int4+row8": 15}


def round_float(s, mantissa_bits, lowest, highest):
    """Positive floats without sign: rounded to `mantissa_bits`, exponents kept within `lowest..=highest`."""
    exponent = np.clip(np.floor(np.log2(np.maximum(s, 1e-30))), lowest, highest)
    step = np.exp2(exponent - mantissa_bits)
    top = (2 - np.exp2(-float(mantissa_bits))) * np.exp2(float(highest))
    return np.minimum(np.round(s / step) * step, top)


def e5m3(s):
    """A byte: 5 bits of exponent, 3 of mantissa, nothing below the smallest normal."""
    return np.maximum(round_float(s, 3, -26, 5), 2.0**-26)


def round_scales(s, kind, largest):
    """`s` (rows, blocks, n) as the format holds it; `largest` (rows, 1, 1) is each row's largest ideal scale."""
    if kind == "f32":
        return s
    if kind == "f16":
        return np.maximum(s.astype(np.float16), np.float16(6e-8))
    if kind == "e5m3":
        return e5m3(s)
    if kind == "e4m4":
        return np.maximum(round_float(s, 4, -20, -5), 2.0**-20)
    if kind == "e4m3+tensor":
        unit = np.maximum(largest.max() / 448, 1e-30)
        return np.maximum(round_float(s / unit, 3, -6, 8), 2.0**-9) * unit
    unit = largest / STEPS[kind]
    unit = e5m3(unit) if kind == "int4+row8" else np.maximum(unit.astype(np.float16).astype(np.float64), 6e-8)
    return np.clip(np.round(s / unit), 1, STEPS[kind]) * unit


def round_minimums(m, kind):
    """`m` (rows, blocks) as a signed number of the scale's own kind; a bit more than the scale has is its sign's."""
    if kind == "f32":
        return m
    if kind == "f16":
        return m.astype(np.float16).astype(np.float64)
    if kind == "e5m3":
        return np.sign(m) * round_float(np.abs(m), 3, -20, -5)
    steps = STEPS[kind] // 2
    unit = np.maximum((np.abs(m).max(1, keepdims=True) / steps).astype(np.float16).astype(np.float64), 6e-8)
    return np.clip(np.round(m / unit), -steps - 1, steps) * unit


def row_bits(columns, scheme):
    """The bits of one row: codes, the last of each block filled up to a whole byte, scales, and minimums."""
    size = min(scheme.block or columns, columns)
    whole, rest = divmod(columns, size)
    if scheme.code == "iq2":
        codes_bits = -(-columns // 8) * 15
    else:
        codes_bits = whole * -(-size * scheme.bits // 8) * 8 + -(-rest * scheme.bits // 8) * 8
    per_block, per_row, _ = BITS[scheme.scale]
    scales = (whole + (rest > 0)) * per_block + per_row if not scheme.tensor else 0
    return codes_bits + scales * (2 if scheme.minimum else 1)


def blocks_of(matrix, size):
    """`matrix` (rows, columns) cut into blocks of a row, (rows, blocks, size), the last one filled up with zeros."""
    rows, columns = matrix.shape
    padded = np.zeros((rows, -(-columns // size) * size), np.float32)
    padded[:, :columns] = matrix
    return padded.reshape(rows, -1, size)


def ideal_scales(x, weight, levels):
    """`LANES` scales for every block, between what its size and what its largest weight suggest, (n_blocks, LANES)."""
    rms = np.sqrt((weight * x * x).sum(1) / np.maximum(weight.sum(1), 1e-30)) / np.sqrt(np.mean(levels**2))
    top = np.abs(x).max(1) / np.abs(levels).max()
    low, high = 0.7 * np.minimum(rms, top) + 1e-12, 1.15 * np.maximum(rms, top) + 1e-12
    return (low[:, None] * (high / low)[:, None] ** np.linspace(0, 1, LANES)).astype(np.float32)


def best_scales(x, weight, scheme, errors_of, levels):
    """Every block's best scale that the format can hold, (rows, blocks), by `errors_of(x, weight, scales)`."""
    rows, n_blocks, n = x.shape
    flat, heavy = np.ascontiguousarray(x.reshape(-1, n)), np.ascontiguousarray(weight.reshape(-1, n))
    ideal = ideal_scales(flat, heavy, levels)
    if scheme.tensor:
        ideal = np.broadcast_to(np.geomspace(ideal.min(), ideal.max(), LANES).astype(np.float32), ideal.shape)
        for _ in range(2):
            at = errors_of(flat, heavy, ideal).sum(0).argmin()
            zoom = np.geomspace(ideal[0, max(at - 1, 0)], ideal[0, min(at + 1, LANES - 1)], LANES).astype(np.float32)
            ideal = np.broadcast_to(zoom, ideal.shape)
    largest = np.ones((rows, 1, 1))
    if scheme.scale not in ("f32", "f16", "e5m3", "e4m4"):
        chosen = np.take_along_axis(ideal, errors_of(flat, heavy, ideal).argmin(1)[:, None], 1)
        largest = chosen.reshape(rows, n_blocks, 1).max(1, keepdims=True).astype(np.float64)
    tried = round_scales(ideal.reshape(rows, n_blocks, LANES).astype(np.float64), scheme.scale, largest)
    tried = np.ascontiguousarray(tried.reshape(-1, LANES).astype(np.float32))
    errors = errors_of(flat, heavy, tried)
    at = np.full(len(errors), errors.sum(0).argmin()) if scheme.tensor else errors.argmin(1)
    return np.take_along_axis(tried, at[:, None], 1).reshape(rows, n_blocks)


def fit_codes(x, weight, scheme):
    """Values for blocks x (rows, blocks, n) by a table of levels, symmetric or with a minimum."""
    table = codes.table_of(scheme.code, scheme.bits)

    def errors_of(x, weight, scales):
        return codes.lane_errors(x, weight, scales, table, scheme.bits)

    def levels_at(x, scale):
        flat, heavy = x.reshape(-1, x.shape[2]), np.ascontiguousarray(weight.reshape(-1, x.shape[2]))
        windows, error = codes.best_windows(flat, heavy, scale.ravel(), table, scheme.bits)
        return table[windows].reshape(x.shape), error.reshape(scale.shape)

    middle = np.zeros(x.shape[:2], np.float32)
    if scheme.minimum:
        middle = best_middles(x, weight, scheme, errors_of, levels_at, table)
    x = x - middle[..., None]
    scale = best_scales(x, weight, scheme, errors_of, table)
    levels, error = levels_at(x, scale)
    if scheme.scale in ("f32", "f16") and not scheme.tensor:
        fitted = (weight * levels * x).sum(2) / np.maximum((weight * levels * levels).sum(2), 1e-30)
        fitted = np.where(fitted > 0, fitted, scale).astype(np.float64)
        fitted = round_scales(fitted, scheme.scale, None).astype(np.float32)
        again, other = levels_at(x, fitted)
        better = other < error
        levels, scale = np.where(better[..., None], again, levels), np.where(better, fitted, scale)
    return levels * scale[..., None] + middle[..., None]


def best_middles(x, weight, scheme, errors_of, levels_at, table):
    """The middle of every block's levels (rows, blocks) by alternating least squares from its mean, then rounded."""
    free = scheme.with_scale("f32")
    total = np.maximum(weight.sum(2), 1e-30)
    middle = ((weight * x).sum(2) / total).astype(np.float32)
    for _ in range(3):
        centred = x - middle[..., None]
        levels = levels_at(centred, best_scales(centred, weight, free, errors_of, table))[0]
        mean_x, mean_level = (weight * x).sum(2) / total, (weight * levels).sum(2) / total
        spread = (weight * (levels - mean_level[..., None]) ** 2).sum(2)
        slope = (weight * (levels - mean_level[..., None]) * x).sum(2) / np.maximum(spread, 1e-30)
        middle = np.where(slope > 0, mean_x - slope * mean_level, middle).astype(np.float32)
    return round_minimums(middle.astype(np.float64), scheme.scale).astype(np.float32)


def fit_lattice(x, weight, scheme):
    """Values for blocks x (rows, blocks, n) by vectors of eight magnitudes and signs of even parity."""
    grid = codes.iq2_grid()
    scale = best_scales(x, weight, scheme, lambda *blocks: codes.lattice_errors(*blocks, grid), grid)
    flat, heavy = x.reshape(-1, x.shape[2]), np.ascontiguousarray(weight.reshape(-1, x.shape[2]))
    return codes.lattice_values(flat, heavy, scale.ravel(), grid).reshape(x.shape)


def fit_matrix(matrix, importance, scheme):
    """`matrix` through blocks of a scheme; `importance` (columns) weighs the errors. Values as f32."""
    rows, columns = matrix.shape
    x = blocks_of(matrix, min(scheme.block or columns, columns))
    weight = np.broadcast_to(blocks_of(importance[None] / importance.mean(), x.shape[2]), x.shape).astype(np.float32)
    fit = fit_lattice if scheme.code == "iq2" else fit_codes
    return fit(x, weight, scheme).reshape(rows, -1)[:, :columns]
