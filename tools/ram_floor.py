"""The least memory in which small models generate, and how fast they do there (`cargo xtask bench ram` runs it).

    python tools/ram_floor.py target/release/smidgen FILE... > bench/record/$(date -u +%F)-ram-floor.json

Needs root and cgroups of version 1. For each GGUF file: the least `--ram` that `smidgen plan` does not refuse, to 4 KiB, with a
context of 64 tokens, a cache of q8_0 and a batch of one; then a greedy run in a memory cgroup of exactly that size and no swap, with
one thread, on the local disk. Rates are of the tokens after the first.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path

from bench_ram import Group, ended, forget
from record import machine, show

FLAGS = ["-c", "64", "-b", "1", "--ctk", "q8_0", "--ctv", "q8_0", "-t", "1"]


def fits(smidgen, path, ram):
    return subprocess.run([smidgen, "plan", path, *FLAGS, "--ram", str(ram)], capture_output=True).returncode == 0


def least(smidgen, path):
    low, high = 0, 1 << 34
    while high - low > 4096:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(smidgen, path, middle) else (middle, high)
    return high


def measure(smidgen, path):
    ram = least(smidgen, path)
    group = Group(ram, os.stat(path).st_dev, "local")
    forget(path)
    words = [smidgen, "run", path, *FLAGS, "--ram", str(ram), "--ids", "1 2 3 4", "--temp", "0", "--ignore-eos", "-n", "33", "--json"]
    done = group.run(words)
    peak = group.peak()
    group.remove()
    if done.returncode:
        return {"file": Path(path).name, "ram_bytes": ram, "ended": ended(done)}
    said = json.loads(done.stdout)
    return {
        "file": Path(path).name, "file_bytes": os.stat(path).st_size, "ram_bytes": ram, "ram_mib": round(ram / (1 << 20), 1),
        "cgroup_peak_bytes": peak, "streamed_bytes": said["streamed_bytes_per_token"],
        "tokens_per_s": round(said["timings"]["decode_tokens_per_s"], 1),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("smidgen")
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()
    rows = [measure(os.path.abspath(arguments.smidgen), path) for path in arguments.files]
    show("cargo xtask bench ram", machine(), rows)


if __name__ == "__main__":
    main()
