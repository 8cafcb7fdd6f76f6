"""Measures how fast a file is read in order past the page cache, by plain threads and by io_uring, and prints the record.

    python tools/read_ways.py FILE [--rounds 5] [--seconds 2]

FILE must be larger than what a disk keeps in its own memory, a model of some hundred megabytes. Needs fio. The ways take turns, so that
what else the machine does meets all of them; a rate is the median of the rounds, in MB/s (10^6 bytes).
"""

import argparse
import json
import statistics
import subprocess

from record import machine, show

# What fio calls them: the engine, requests under way in each thread, threads.
WAYS = {
    "one thread": ("psync", 1, 1),
    "two threads": ("psync", 1, 2),
    "four threads": ("psync", 1, 4),
    "io_uring, 2 requests": ("io_uring", 2, 1),
    "io_uring, 4 requests": ("io_uring", 4, 1),
    "io_uring, 8 requests": ("io_uring", 8, 1),
}


def rate(path, seconds, engine, depth, threads):
    command = ["fio", "--name=read", f"--filename={path}", "--rw=read", "--direct=1", "--bs=512k", "--thread", "--group_reporting",
               "--time_based", f"--runtime={seconds}", f"--ioengine={engine}", f"--iodepth={depth}", f"--numjobs={threads}",
               "--offset_increment=16m", "--output-format=json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["jobs"][0]["read"]["bw_bytes"] / 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    arguments = parser.parse_args()
    rates = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way, settings in WAYS.items():
            rates[way].append(rate(arguments.file, arguments.seconds, *settings))
    rows = [{"way": way, "mb_per_s": round(statistics.median(all_)), "least": round(min(all_)), "most": round(max(all_))}
            for way, all_ in rates.items()]
    command = f"python tools/read_ways.py FILE --rounds {arguments.rounds} --seconds {arguments.seconds}"
    show(command, machine(), rows)


if __name__ == "__main__":
    main()
