"""Times whole processes of smidgen and of llama.cpp's own command on the same files, and prints the record (`cargo xtask bench start`).

    python tools/bench_start.py SMIDGEN LLAMA_COMPLETION FOLDER [--models A-TYPE,B-TYPE] [--busy A-TYPE] [--repetitions 7]

FOLDER holds the files that `tools/bench_models.py` makes; LLAMA_COMPLETION is what `tools/build_llama_completion.py` builds from the
source that llama-cpp-python brings. It runs twice: as it comes, and without the estimate of what fits and the pass that warms it up;
the record has both. A program gets a prompt of four words and makes tokens greedily with a context of 64.

Three things are measured. Start: the time from the start of the process to the first byte behind the prompt. Peak: the most memory
that was resident (VmHWM in proc_pid_status(5)) until the last token was written. Busy: how long 64 tokens take on two threads with
nothing, one or two endless loops beside, and how many times the idle run that is; of few runs, because llama.cpp's take minutes then.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from record import machine, peer, show

PROMPT = "Once upon a time"
# What llama.cpp's command does first unless it is told not to.
LEAN = ["--no-warmup", "--fit", "off"]
# Runs on a busy machine, of which one more is not counted.
BUSY_RUNS = 3


def ours(smidgen, path, n_tokens, n_threads):
    words = ["run", path, "-p", PROMPT, "-n", n_tokens, "-c", 64, "-t", n_threads, "--temp", 0, "--ignore-eos"]
    return run([smidgen, *words], len(PROMPT))


def theirs(program, path, n_tokens, n_threads, more=()):
    words = ["-m", path, "-p", PROMPT, "-n", n_tokens, "-c", 64, "-t", n_threads, "--temp", 0, "--ignore-eos", "-no-cnv"]
    return run([program, *words, "--no-display-prompt", *more], 0)


def run(words, n_echoed):
    """Milliseconds to the first byte after those that repeat the prompt and to the end, and the peak in bytes."""
    began = time.monotonic()
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    n_read, first, peak = 0, None, 0
    while text := os.read(process.stdout.fileno(), 4096):
        n_read += len(text)
        if first is None and n_read > n_echoed:
            first = (time.monotonic() - began) * 1e3
        # Not between the prompt that a program repeats and its first byte, which would seem later.
        peak = (first and resident(process.pid)) or peak
    if process.wait() != 0 or first is None:
        raise RuntimeError(f"{words} ended with {process.returncode}, having written {n_read} bytes")
    return first, (time.monotonic() - began) * 1e3, peak


def resident(pid):
    """The most bytes that were resident so far; none when the process has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else None


def alternately(repetitions, *ways):
    """The medians of what each of `ways` gives, of which one time each is not counted."""
    runs = [[way() for way in ways] for _ in range(repetitions + 1)][1:]
    return [[statistics.median(figures) for figures in zip(*(run[index] for run in runs))] for index in range(len(ways))]


def start(smidgen, program, path, repetitions):
    """First byte and peak; the shares are smidgen's of llama.cpp as it comes, and of its better of two."""
    row = {"file": path.name, "file_bytes": path.stat().st_size, "test": "start"}
    for n_tokens, index, name in ((8, 0, "first_byte_ms"), (56, 2, "peak_bytes")):
        ways = [lambda: ours(smidgen, path, n_tokens, 1), lambda: theirs(program, path, n_tokens, 1),
                lambda: theirs(program, path, n_tokens, 1, LEAN)]
        us, them, lean = (round(figures[index], 2) for figures in alternately(repetitions, *ways))
        if not us or not them or not lean:
            raise RuntimeError(f"{path.name}: no {name} was seen")
        row |= {f"smidgen_{name}": us, f"llama_cpp_{name}": them, f"llama_cpp_lean_{name}": lean}
        row |= {f"{name}_share": round(us / them, 3), f"{name}_share_of_lean": round(us / min(them, lean), 3)}
    return row


def busy(smidgen, program, path, _repetitions):
    """Rows for no, one and two loops beside."""
    idle = None
    for n_loops in range(3):
        loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_loops)]
        try:
            ways = [lambda: ours(smidgen, path, 56, 2), lambda: theirs(program, path, 56, 2)]
            walls = [figures[1] for figures in alternately(BUSY_RUNS, *ways)]
        finally:
            for loop in loops:
                loop.kill()
                loop.wait()
        idle = idle or walls
        row = {"file": path.name, "test": "busy", "threads": 2, "loops": n_loops}
        for name, wall, alone in zip(("smidgen", "llama_cpp"), walls, idle):
            row |= {f"{name}_ms": round(wall, 1), f"{name}_times_idle": round(wall / alone, 2)}
        yield row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("smidgen")
    parser.add_argument("llama_completion")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default="stories260K-F32,stories260K-Q8_0,s15M-Q8_0,smol135-Q8_0,smol135-Q4_0,gpt2-124-Q4_0")
    parser.add_argument("--busy", default="stories260K-Q8_0,smol135-Q8_0")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    programs = arguments.smidgen, arguments.llama_completion
    rows = []
    for names, measure in ((arguments.models, start), (arguments.busy, busy)):
        for path in (arguments.folder / f"{name}.gguf" for name in names.split(",") if name):
            if path.exists():
                found = measure(*programs, path, arguments.repetitions)
                for row in [found] if isinstance(found, dict) else found:
                    rows.append(row)
                    print(row, file=sys.stderr)
    show(" ".join(["python", *sys.argv]), f"{machine()}, {peer()}", rows)


if __name__ == "__main__":
    main()
