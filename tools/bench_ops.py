"""Says at which share of a machine's memory speed new tokens read their weights, and prints the record (`cargo xtask bench ops` runs it).

    python3 tools/bench_ops.py target/release/smidgen FOLDER [--models smol135:Q8_0,...] [--threads 1,2] [--repetitions 7]

FOLDER holds the files that `tools/bench_models.py` makes. Each repetition is one `smidgen bench --ops`, which times every part of 64 tokens,
once they have been made without looking at the clock, and then reads all weights with nothing else to do, as fast as the best of nine
passes. Weights are read into memory of our own, so that both read the same pages. Medians, and the smallest and largest share: of the
products alone, and of the whole token with all that is no product.
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path

from record import machine, show, wait_until_quiet

MODELS = "smol135:Q8_0,smol135:Q4_0,gpt2-124:Q8_0,gpt2-124:Q4_0"


def measure(smidgen, path, threads):
    """Gigabytes a second: of the products, of the whole token, and of a machine that only reads."""
    wait_until_quiet(0.1, 5)
    words = [smidgen, "bench", path, "-p", "1", "-n", "64", "-t", str(threads), "-r", "1", "--no-mmap", "--ops", "--json"]
    said = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    n_bytes = sum(op["weight_bytes"] for op in said["ops"])
    products = sum(op["us_per_token"] for op in said["ops"] if op["weight_bytes"])
    whole = sum(op["us_per_token"] for op in said["ops"])
    return n_bytes / products / 1e3, n_bytes / whole / 1e3, said["limit_gb_per_s"]


def row_of(path, threads, runs):
    row = {"file": Path(path).name, "threads": threads}
    for index, name in enumerate(("products", "token", "limit")):
        row[f"{name}_gb_per_s"] = round(statistics.median(run[index] for run in runs), 1)
    for index, name in enumerate(("products", "token")):
        shares = sorted(100 * run[index] / run[2] for run in runs)
        row |= {f"{name}_percent": round(statistics.median(shares)), f"{name}_min_percent": round(shares[0]), f"{name}_max_percent": round(shares[-1])}
    return row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("smidgen")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    rows = []
    for model in arguments.models.split(","):
        path = arguments.folder / f"{model.replace(':', '-')}.gguf"
        for threads in arguments.threads:
            runs = [measure(arguments.smidgen, str(path), threads) for _ in range(arguments.repetitions)]
            rows.append(row_of(path, threads, runs))
    show("cargo xtask bench ops", machine(), rows)


if __name__ == "__main__":
    main()
