"""Runs smidgen on one core with weights in parts, read by io_uring and read by threads, in turns, and prints the record.

    python tools/ring_or_threads.py target/release/smidgen FILE... [--shares 90,50,10] [--rounds 5] [--tokens 40]

Needs root, cgroups of version 1 (memory, blkio) and Linux 6.6: `kernel.io_uring_disabled` says who reads, and is put back at the end.
A cap is a share of the file and 16 MiB; rates are medians of the rounds.
"""

import argparse
import os
import statistics
from pathlib import Path

import bench_ram
from record import machine, show

SWITCH = Path("/proc/sys/kernel/io_uring_disabled")
READERS = {"io_uring": "0", "threads": "2"}


def rate(arguments, path, cap):
    group = bench_ram.Group(cap, os.stat(path).st_dev, "local")
    bench_ram.forget(path)
    said = bench_ram.ours(group, path, cap, arguments)
    group.remove()
    assert "ended" not in said, said
    return said["tokens_per_s"]


def rows(arguments, path):
    for share in arguments.shares:
        cap = os.stat(path).st_size * share // 100 + (16 << 20)
        rates = {reader: [] for reader in READERS}
        for _ in range(arguments.rounds):
            for reader, value in READERS.items():
                SWITCH.write_text(value)
                rates[reader].append(rate(arguments, path, cap))
        for reader, all_ in rates.items():
            median, least, most = (round(one(all_), 1) for one in (statistics.median, min, max))
            yield {"file": Path(path).name, "share": share, "reader": reader, "tokens_per_s": median, "least": least, "most": most}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("smidgen", type=os.path.abspath)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--shares", type=lambda text: [int(share) for share in text.split(",")], default=[90, 50, 10])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=40)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {0})
    before = SWITCH.read_text()
    try:
        found = [row for path in arguments.files for row in rows(arguments, path)]
    finally:
        SWITCH.write_text(before)
    shares = ",".join(map(str, arguments.shares))
    options = f"--shares {shares} --rounds {arguments.rounds} --tokens {arguments.tokens}"
    show(f"python tools/ring_or_threads.py target/release/smidgen FILE... {options}", machine(), found)


if __name__ == "__main__":
    main()
