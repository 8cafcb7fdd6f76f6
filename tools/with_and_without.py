"""Runs smidgen with weights in parts and something of the system's switched on and off in turns, and prints the record.

    python tools/with_and_without.py ring|pages target/release/smidgen FILE... [--shares 90,50,10] [--rounds 5] [--tokens 40]
                                     [--seconds 15]

`ring`: on one core, whether io_uring reads or threads do (`kernel.io_uring_disabled`, Linux 6.6). `pages`: whether windows have large pages
(transparent huge pages; weights that are kept have them or not too). The switch is put back at the end. Needs root and cgroups of version 1
(memory, blkio). A cap is a share of the file and 16 MiB; rates are medians of the rounds, each of which decodes for --seconds at most.
"""

import argparse
import os
import re
import statistics
from pathlib import Path

import bench_ram
from record import machine, show

# The switch, its two places, and the cores that there are.
SUBJECTS = {
    "ring": ("/proc/sys/kernel/io_uring_disabled", {"io_uring": "0", "threads": "2"}, {0}),
    "pages": ("/sys/kernel/mm/transparent_hugepage/enabled", {"large pages": "madvise", "ordinary pages": "never"}, None),
}


def rate(arguments, path, cap):
    said = bench_ram.bounded(path, cap, None, (os.stat(path).st_dev, "local"), arguments)
    assert "ended" not in said, said
    return said["tokens_per_s"]


def rows(arguments, path, switch, places):
    for share in arguments.shares:
        cap = os.stat(path).st_size * share // 100 + (16 << 20)
        rates = {place: [] for place in places}
        for _ in range(arguments.rounds):
            for place, value in places.items():
                switch.write_text(value)
                rates[place].append(rate(arguments, path, cap))
        for place, all_ in rates.items():
            median, least, most = (round(one(all_), 1) for one in (statistics.median, min, max))
            yield {"file": Path(path).name, "share": share, "with": place, "tokens_per_s": median, "least": least, "most": most}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("smidgen", type=os.path.abspath)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--shares", type=lambda text: [int(share) for share in text.split(",")], default=[90, 50, 10])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=15)
    arguments = parser.parse_args()
    path, places, cores = SUBJECTS[arguments.subject]
    switch = Path(path)
    # A switch of several words has the one in brackets on.
    before = switch.read_text()
    before = (re.search(r"\[(.*)\]", before) or [before, before])[1]
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        found = [row for path in arguments.files for row in rows(arguments, path, switch, places)]
    finally:
        switch.write_text(before)
    shares = ",".join(map(str, arguments.shares))
    options = f"--shares {shares} --rounds {arguments.rounds} --tokens {arguments.tokens} --seconds {arguments.seconds:g}"
    show(f"python tools/with_and_without.py {arguments.subject} target/release/smidgen FILE... {options}", machine(), found)


if __name__ == "__main__":
    main()
