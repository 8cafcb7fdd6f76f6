"""Error feedback: each weight is rounded after it has taken up what the rounding of those before it left over.

With H the mean of x x^T over the inputs of a matrix and H = A D A^T, A unit upper triangular, a row's loss e H e^T is
the sum of D_i (target_i - q_i)^2 for target_i = w_i + sum over j < i of (w_j - q_j) A[j, i]. Source: LDLQ of Chee and
others 2023, "QuIP" (GPTQ of Frantar and others 2022 is the same rounding). In a trellis code every surviving path has
errors of its own, so each carries its own targets through the block.
"""

import numpy as np
from numba import njit

from any_width import codes
from any_width import scales
from any_width.codes import FAR

DAMPING = 0.01  # Of the mean of H's diagonal, added to it.


def factors(moment):
    """A (unit upper triangular) and the diagonal of D with A D A^T = `moment`, damped."""
    damped = moment + DAMPING * np.mean(np.diag(moment)) * np.eye(len(moment))
    lower = np.linalg.cholesky(damped[::-1, ::-1])
    upper = lower[::-1, ::-1]
    diagonal = np.diag(upper)
    return (upper / diagonal).astype(np.float32), (diagonal**2).astype(np.float32)


@njit(fastmath=True, cache=True)
def survivors(x, target, scale, heavy, upper, table, bits):
    """Values (rows, n) of one block of every row: x its weights, target what the blocks before it made of them.

    heavy (n) is D, upper (n, n) is A within the block. Each of the `2 ** (L - bits)` states keeps its path's errors.
    """
    rows, n = x.shape
    states = table.size >> bits
    values = np.empty((rows, n), np.float32)
    cost, fresh = np.empty(states, np.float32), np.empty(states, np.float32)
    path, longer = np.zeros((states, n), np.float32), np.zeros((states, n), np.float32)
    aim, from_ = np.empty(states, np.float32), np.empty(states, np.int64)
    columns = np.ascontiguousarray(upper.T)
    for row in range(rows):
        cost[:] = FAR
        cost[0] = 0.0
        for i in range(n):
            for state in range(states):
                aim[state] = target[row, i]
                if cost[state] < FAR:
                    for j in range(i):
                        aim[state] += path[state, j] * columns[i, j]
            fresh[:] = 2 * FAR
            for window in range(table.size):
                old, new = window >> bits, window & (states - 1)
                d = aim[old] - table[window] * scale[row]
                t = cost[old] + heavy[i] * d * d
                if t < fresh[new]:
                    fresh[new], from_[new] = t, window
            for state in range(states):
                old = from_[state] >> bits
                for j in range(i):
                    longer[state, j] = path[old, j]
                longer[state, i] = x[row, i] - table[from_[state]] * scale[row]
            cost, fresh = fresh, cost
            path, longer = longer, path
        state = np.argmin(cost)
        for i in range(n):
            values[row, i] = x[row, i] - path[state, i]
    return values


def fit_matrix(matrix, moment, scheme):
    """`matrix` with feedback of the errors, block of columns by block of columns. Values as f32."""
    upper, heavy = factors(moment)
    heavy = heavy / heavy.mean()
    table = codes.table_of(scheme.code, scheme.bits)
    columns = matrix.shape[1]
    size = min(scheme.block or columns, columns)
    values, errors = np.zeros_like(matrix), np.zeros_like(matrix)

    def errors_of(x, weight, tried):
        return codes.lane_errors(x, weight, tried, table, scheme.bits)

    for at in range(0, columns, size):
        span = slice(at, min(at + size, columns))
        target = matrix[:, span] + errors[:, :at] @ upper[:at, span]
        block = target[:, None]
        weight = np.ascontiguousarray(np.broadcast_to(heavy[span], block.shape))
        scale = scales.best_scales(block, weight, scheme, errors_of, table)
        inner = upper[span, span] if scheme.feedback == "paths" else np.eye(block.shape[2], dtype=np.float32)
        values[:, span] = survivors(
            matrix[:, span], target, scale[:, 0], heavy[span], np.ascontiguousarray(inner), table, scheme.bits
        )
        errors[:, span] = matrix[:, span] - values[:, span]
    return values
