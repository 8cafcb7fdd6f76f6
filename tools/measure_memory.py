"""Measures what runs take at their peak against what was planned, and what refusing a broken model costs.

    cargo build --release --target x86_64-unknown-linux-musl
    python3 tools/measure_memory.py target/x86_64-unknown-linux-musl/release/smidgen ../shared/data \\
        > bench/record/$(date -u +%F)-memory.json

Peaks are the system's (VmHWM, as `run --json` reports it). Broken models are refused within an address space of
20 MiB, program included; times are the median of five, the shell that sets the limit included.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

from record import show


def peak(smidgen, flags):
    words = [smidgen, "run", "--json", "--temp", "0", "--ignore-eos", "-p", "Once upon a time", *flags]
    report = json.loads(subprocess.run(words, check=True, capture_output=True, stdin=subprocess.DEVNULL).stdout)
    return {"planned_bytes": report["planned_bytes"], "peak_bytes": report["peak_bytes"]}


def refusal(smidgen, path):
    """Milliseconds and exit status of running `path` in 20 MiB of address space."""
    limited = ["sh", "-c", 'ulimit -v 20480 && exec "$0" "$@"', smidgen]
    times = []
    for _ in range(5):
        began = time.monotonic()
        done = subprocess.run([*limited, "run", path, "-p", "a"], capture_output=True, stdin=subprocess.DEVNULL)
        times.append((time.monotonic() - began) * 1000)
    return {"ms": round(statistics.median(times), 1), "status": done.returncode}


def main():
    smidgen, data = sys.argv[1:3]
    stories = os.path.join(data, "gguf/stories260K-v1-f32.gguf")
    results = []
    with tempfile.TemporaryDirectory() as directory:
        broken = {"empty": b"", "text": b"once upon a time\n" * 1000}
        model = open("models/tales.gguf", "rb").read()
        broken |= {f"cut at {n} bytes": model[:n] for n in (10, 1000, 50_000, len(model) - 1)}
        counts = bytearray(model)
        counts[8:16] = b"\xff" * 7 + b"\x0f"
        broken["tensor count that lies"] = bytes(counts)
        for name, content in broken.items():
            path = os.path.join(directory, "broken.gguf")
            with open(path, "wb") as file:
                file.write(content)
            results.append({"refused": name, **refusal(smidgen, path)})
        small = os.path.join(directory, "q8_0.gguf")
        convert = [smidgen, "convert", stories, small, "--outtype", "q8_0", "--fallback", "f16"]
        subprocess.run(convert, check=True, capture_output=True)
        for name, flags in {
            "stories260K, f32": [stories, "-c", "64"],
            "stories260K, q8_0": [small, "-c", "64"],
            "embedded model": [],
            "tales.gguf": ["models/tales.gguf", "-c", "256"],
        }.items():
            results.append({"run": name, **peak(smidgen, [*flags, "--no-mmap", "-n", "40"])})
    command = "python3 tools/measure_memory.py target/x86_64-unknown-linux-musl/release/smidgen ../shared/data"
    show(command, f"{platform.machine()}, {platform.system()} {platform.release()}", results)


main()
