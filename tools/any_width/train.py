"""Trains the tables of levels, and says how far they can be trusted.

    OMP_NUM_THREADS=1 python tools/any_width/train.py --data ../shared/data --program target/debug/smidgen \\
        --tables tools/any_width/tables.json --record bench/record/$(date -u +%F)-any-width-tables.json

Lloyd's iteration with the search of the scale inside, on blocks of 64 weights of the three models and of a bell curve,
each block brought to size one. Many starts run short on a few blocks, the three best go on with all, with and without
noise that dies away; blocks that training has not seen choose among them, and the levels are then rounded to int8. The
record holds the error of every source, and that on a model whose blocks were left out of the training.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from any_width import codes, scales
from any_width.models import MODELS, Subject

BLOCK = 64
N_TRAIN, N_CHOOSE = 112_000 // BLOCK, 64_000 // BLOCK  # Blocks of each source.
SHORT_TRAIN, SHORT_CHOOSE = 38_400 // BLOCK, 20_000 // BLOCK
SHORT_ROUNDS, LONG_ROUNDS, NOISE = 10, 18, 0.08
BLIND_SEEDS = 4  # Starts of the training that leaves a model out.
BELL = "bell curve"


def sources(data, program):
    """Blocks of size one from each source: those to train on and those to judge with."""
    dice, blocks = np.random.default_rng(0), {}
    for name in MODELS:
        matrices = Subject(name, data, program, n_calibrate=1, n_judge=1).weights.values()
        cut = [matrix[:, : matrix.shape[1] // BLOCK * BLOCK].reshape(-1, BLOCK) for matrix in matrices]
        rows = np.concatenate(cut)
        size = np.sqrt((rows * rows).mean(1))
        rows = rows[size > 1e-6] / size[size > 1e-6, None]
        blocks[name] = rows[dice.permutation(len(rows))].astype(np.float32)
    blocks[BELL] = dice.normal(size=(20_000, BLOCK)).astype(np.float32)
    seen = {name: rows[:N_TRAIN] for name, rows in blocks.items()}
    return seen, {name: rows[len(rows) - min(N_CHOOSE, len(rows) // 3) :] for name, rows in blocks.items()}


def together(blocks, names, n):
    return np.ascontiguousarray(np.concatenate([blocks[name][:n] for name in names]))


def first_table(bits, window_bits, seed, structured):
    """Quantiles of a bell curve, in random order, or `structured`: the code is the level, the older bits its coset."""
    dice, n_windows = np.random.default_rng(seed), 1 << window_bits
    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / n_windows) for i in range(n_windows)]) * 1.1
    if not structured:
        return dice.permutation(quantiles).astype(np.float32)
    states = n_windows >> bits
    order, window = dice.permutation(states), np.arange(n_windows)
    return quantiles[(window & ((1 << bits) - 1)) * states + order[window >> bits]].astype(np.float32)


def iterate(table, x, bits, rounds, noise=0.0, seed=0):
    """`rounds` of: the best scale and path of every block, then the levels that fit them best."""
    dice, table, calm = np.random.default_rng(seed), table.copy(), rounds * 2 // 3
    weight = np.ones_like(x)
    for turn in range(rounds):
        if noise and turn < calm:
            spread = noise * (1 - turn / (rounds * 2 / 3)) * np.sqrt(np.mean(table**2))
            table = (table + dice.normal(size=table.size) * spread).astype(np.float32)
        tried = scales.ideal_scales(x, weight, table)
        errors = codes.lane_errors(x, weight, tried, table, bits)
        scale = np.take_along_axis(tried, errors.argmin(1)[:, None], 1)[:, 0].copy()
        windows, _ = codes.best_windows(x, weight, scale, table, bits)
        sums, counts = np.zeros(table.size), np.zeros(table.size)
        codes.accumulate(x, weight, windows, scale, sums, counts)
        table = np.where(counts > 0, sums / np.maximum(counts, 1e-30), table)
        table = (table / np.sqrt(np.mean(table**2))).astype(np.float32)
    return table


def error_of(table, x, bits):
    """Mean over blocks of the squared error over the squared size, with the best f32 scale of each."""
    weight = np.ones_like(x)
    tried = scales.ideal_scales(x, weight, table)
    errors = codes.lane_errors(x, weight, tried, table, bits)
    scale = np.take_along_axis(tried, errors.argmin(1)[:, None], 1)[:, 0].copy()
    windows, first = codes.best_windows(x, weight, scale, table, bits)
    levels = table[windows]
    fitted = ((levels * x).sum(1) / np.maximum((levels * levels).sum(1), 1e-30)).astype(np.float32)
    fitted = np.where(fitted > 0, fitted, scale)
    again = codes.best_windows(x, weight, fitted, table, bits)[1]
    return float((np.minimum(first, again) / (x * x).sum(1)).mean())


def train(seen, held, names, bits, window_bits, seeds):
    """(error on held-out blocks, table in f32) of every long run, the best first."""
    few, judge_few = together(seen, names, SHORT_TRAIN), together(held, names, SHORT_CHOOSE)
    all_, judge_all = together(seen, names, N_TRAIN), together(held, names, N_CHOOSE)
    structured = bits > 2 and window_bits > bits
    short = []
    for seed in seeds if window_bits > bits else (0,):
        table = iterate(first_table(bits, window_bits, seed, structured), few, bits, SHORT_ROUNDS)
        short.append((error_of(table, judge_few, bits), seed, table))
    short.sort(key=lambda run: run[0])
    runs = []
    for index, (_, seed, table) in enumerate(short[:3]):
        for noise in (0.0, NOISE) if window_bits > bits else (0.0,):
            longer = iterate(table, all_, bits, LONG_ROUNDS, noise, index)
            runs.append((error_of(longer, judge_all, bits), longer))
    return sorted(runs, key=lambda run: run[0])


def to_int8(table, x, bits):
    """The integer table with a largest magnitude of 99..=127 that errs least on the blocks x."""
    tops = range(127, 95, -4)
    rounded = [np.round(table * (top / np.abs(table).max())).astype(np.float32) for top in tops]
    return min(rounded, key=lambda table: error_of(table, x, bits))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--data", "--tables", "--record"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--program", required=True, help="the smidgen program, which makes the tokens")
    parser.add_argument("--only", nargs="*", help="tables to train again, as in `trellis6 2`; without it all")
    words = parser.parse_args()
    seen, held = sources(words.data, words.program)
    names, results = list(seen), []
    tables = json.loads(words.tables.read_text()) if words.tables.exists() else {}
    jobs = [("lloyd", bits, bits, range(1)) for bits in (2, 3, 4, 5, 6)]
    jobs += [("trellis6", 2, 6, range(100, 124))] + [("trellis6", bits, 6, range(100, 110)) for bits in (3, 4, 5)]
    jobs += [("trellis8", 2, 8, range(100, 104))]
    for code, bits, window_bits, seeds in jobs:
        if words.only is not None and f"{code} {bits}" not in words.only:
            continue
        runs = train(seen, held, names, bits, window_bits, seeds)
        table = to_int8(runs[0][1], together(held, names, N_CHOOSE), bits)
        if code == "lloyd":
            table = np.sort(table)
        tables[f"{code} {bits}"] = table.astype(int).tolist()
        row = {"table": f"{code} {bits}", "long_runs": [round(error, 6) for error, _ in runs]}
        row["errors"] = {name: round(error_of(table, held[name], bits), 6) for name in names}
        if code == "trellis6":
            for left in MODELS:
                others = [name for name in names if name != left]
                blind = train(seen, held, others, bits, window_bits, seeds[:BLIND_SEEDS])[0][1]
                row.setdefault("errors_when_left_out", {})[left] = round(error_of(blind, held[left], bits), 6)
        results.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        lines = ",\n".join(f'"{name}": {json.dumps(tables[name])}' for name in sorted(tables))
        words.tables.write_text("{\n" + lines + "\n}\n")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    record = {
        "command": "OMP_NUM_THREADS=1 python tools/any_width/train.py --data ../shared/data --program "
        "target/debug/smidgen --tables tools/any_width/tables.json",
        "commit": commit, "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{cpu}, 1 core used, {platform.system()} {platform.release()}", "results": results,
    }  # fmt: skip
    words.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
