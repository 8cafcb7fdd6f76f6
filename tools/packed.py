"""What `smidgen pack` saves, and what that does to a streamed run: the record of docs/memory.md.

    python tools/packed.py target/release/smidgen --sizes MODEL... --runs FILE... [--disks local,50] [--rounds 3] [--tokens 8]
        > bench/record/$(date -u +%F)-packed.json

For sizes, each MODEL is written in each type that its rows can have and packed with `--least 0`; `saved` is the share of the matrices of that
type. For runs, each FILE, a GGUF file of one type such as tools/bench_models.py makes, is run plain and packed by turns under a `--ram`
of half the plain file, on the disk as it is and behind a throttle (in MB/s; blkio of cgroups of version 1, and root), and the medians of
`--rounds` are compared. Random weights save about as much as trained ones: tools/bench_models.py's are Gaussian. `unpacked_mb_per_s` is of
plain weights and of one core's time, so that what else the machine does counts for little; the disk as it is has no such excuse.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_ram import Group, forget
from record import machine, show

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_0", "Q4_K", "Q4_0", "IQ4_NL", "Q8_W", "Q6_W", "Q5_W", "Q4_W", "Q3_W"]
PROMPT = " ".join(map(str, range(1, 9)))


def ask(words):
    done = subprocess.run(words, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


def sizes(smidgen, model, folder):
    """One row for each type: what packing saves of its matrices, and of the file."""
    plain, packed = str(folder / "plain.gguf"), str(folder / "packed.gguf")
    for kind in TYPES:
        if kind in ("F32", "F16", "BF16"):
            words = ["convert", model, plain, "--outtype", kind.lower()]
        else:
            words = ["quantize", model, plain, kind, "--pure", "--requantize"]
        if subprocess.run([smidgen, *words], capture_output=True).returncode:
            continue
        said = ask([smidgen, "pack", plain, packed, "--least", "0", "--json"])
        row = said and next((row for row in said["types"] if row["type"] == kind), None)
        if row:
            yield {
                "model": Path(model).name, "type": kind, "weight_bytes": row["bytes"],
                "saved_percent": round(100 - 100 * row["packed_bytes"] / row["bytes"], 1),
                "file_bytes": said["plain_bytes"], "packed_file_bytes": said["bytes"],
                "file_saved_percent": round(100 - 100 * said["bytes"] / said["plain_bytes"], 1),
            }


def run(smidgen, path, ram, disk, n_tokens):
    """What a run says of itself, behind the throttle."""
    group = Group(None, os.stat(path).st_dev, disk)
    forget(path)
    words = [smidgen, "run", path, "--ids", PROMPT, "--temp", "0", "--ignore-eos", "-c", "256", "-t", "1", "--json"]
    done = group.run([*words, "-n", str(n_tokens + 1), *(["--ram", str(ram)] if ram else [])])
    group.remove()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def speeds(smidgen, path, disk, arguments, folder):
    """The plain file and the packed one by turns."""
    packed = str(folder / "packed.gguf")
    said = ask([smidgen, "pack", path, packed, "--least", "0", "--json"])
    ram = os.stat(path).st_size // 2
    rates = {path: [], packed: []}
    for _ in range(arguments.rounds):
        for file in rates:
            report = run(smidgen, file, ram, disk, arguments.tokens)
            rates[file].append((report["timings"]["decode_tokens_per_s"], report["streamed_bytes_per_token"], report["ids"]))
    assert len({str(ids) for some in rates.values() for _, _, ids in some}) == 1, "other tokens"
    plain, small = (statistics.median(rate for rate, _, _ in some) for some in rates.values())
    return {
        "file": Path(path).name, "disk": disk, "ram_bytes": ram,
        "file_saved_percent": round(100 - 100 * said["bytes"] / said["plain_bytes"], 1),
        "plain_bytes_per_token": rates[path][0][1], "packed_bytes_per_token": rates[packed][0][1],
        "plain_tokens_per_s": round(plain, 2), "packed_tokens_per_s": round(small, 2),
        "ratio": round(small / plain, 2),
        "bytes_ratio": round(rates[path][0][1] / rates[packed][0][1], 2),
    }


def unpacking(smidgen, path, arguments, folder):
    """Bytes of plain weights that a core unpacks in a second of its time: that of a run of the packed file, less that of the plain one."""
    packed = str(folder / "packed.gguf")
    ask([smidgen, "pack", path, packed, "--least", "0", "--json"])
    best = {}
    for _ in range(arguments.rounds):
        for file in (path, packed):
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            ask([smidgen, "run", file, "--no-mmap", "--ids", "1", "-n", "1", "-c", "16", "-t", "1", "--json"])
            seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
            best[file] = min(best.get(file, seconds), seconds)
    rate = os.stat(path).st_size / (best[packed] - best[path])
    return {"file": Path(path).name, "unpacked_mb_per_s": round(rate / 1e6)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("smidgen")
    parser.add_argument("--sizes", nargs="*", default=[])
    parser.add_argument("--runs", nargs="*", default=[])
    parser.add_argument("--disks", type=lambda text: text.split(","), default=["local", "50"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8)
    arguments = parser.parse_args()
    smidgen = os.path.abspath(arguments.smidgen)
    rows = []

    def keep(row):
        rows.append(row)
        print(row, file=sys.stderr)

    for model in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            for row in sizes(smidgen, model, Path(folder)):
                keep(row)
    for path in arguments.runs:
        # Beside the plain file: on the same disk, and never in memory.
        with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
            keep(unpacking(smidgen, path, arguments, Path(folder)))
            for disk in arguments.disks:
                keep(speeds(smidgen, path, disk, arguments, Path(folder)))
    names = [Path(name).name for name in arguments.sizes], [Path(name).name for name in arguments.runs]
    command = f"python tools/packed.py target/release/smidgen --sizes {' '.join(names[0])} --runs {' '.join(names[1])}"
    show(command, machine(), rows)


if __name__ == "__main__":
    main()
