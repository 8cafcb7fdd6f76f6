"""What quantizing a model of SmolLM-135M's shape costs: seconds, and peak memory beside its largest tensor.

    cargo build --release
    python tools/quantize_cost.py target/release/smidgen ../shared/data MODEL IMATRIX > bench/record/$(date -u +%F)-quantize-cost.json

Needs the packages numpy and gguf. The weights are normal random numbers in F16. MODEL and IMATRIX, which may be left out, are a GGUF file
and its second moments (`smidgen calibrate --hessian`): with them, rounding is with error feedback. `peak_bytes` is the largest resident set, which
counts the pages of the mapped file that are in use; `largest_tensor_bytes` is that of the source, as it lies in the file.
"""

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
from bench_models import SHAPES, write
from record import show

ASKED = ["Q8_0", "Q4_0", "Q8_W", "Q4_W", "IQ4_NL --fallback any"]


def size(path):
    """Bytes of the largest tensor of a file, and all its weights."""
    tensors = gguf.GGUFReader(path).tensors
    return max(int(tensor.n_bytes) for tensor in tensors), sum(int(tensor.n_elements) for tensor in tensors)


# A child's peak counts what its parent held when it was made, so the parent is an interpreter with nothing in it.
MEASURE = """
import resource, subprocess, sys, time
start = time.monotonic()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
"""


def cost(command):
    """Seconds, seconds of all threads, and peak resident bytes of a command."""
    words = [sys.executable, "-S", "-c", MEASURE, *map(str, command)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    seconds, cpu_seconds, peak = done.stdout.split()
    return float(seconds), float(cpu_seconds), int(peak)


def row(program, name, model, out, words):
    largest, n_weights = size(model)
    seconds, cpu_seconds, peak = cost([program, "quantize", model, out, *words])
    found = {
        "model": name, "asked": " ".join(word for word in words if "/" not in word), "weights": n_weights,
        "seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1),
        "weights_per_cpu_second": round(n_weights / cpu_seconds), "bytes": out.stat().st_size,
        "largest_tensor_bytes": largest, "peak_bytes": peak,
    }  # fmt: skip
    print(found, file=sys.stderr, flush=True)
    return found


def main():
    program, data = sys.argv[1], Path(sys.argv[2])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder) / "model.gguf", Path(folder) / "out.gguf"
        if sys.argv[3:]:
            given, imatrix = sys.argv[3:]
            for asked in ["Q2_W", "IQ2_XXS"]:
                rows.append(row(program, Path(given).stem, given, out, [asked, "--imatrix", imatrix]))
        arch, vocabulary, *shape = SHAPES["smol135"]
        write(model, data / f"tok/ggml-vocab-{vocabulary}.gguf", arch, *shape)
        for asked in ASKED:
            rows.append(row(program, "SmolLM-135M", model, out, asked.split()))
    command = "python tools/quantize_cost.py target/release/smidgen ../shared/data wide.gguf wide.imatrix.gguf"
    show(command, f"{platform.machine()}, {platform.system()} {platform.release()}, {os.cpu_count()} cores", rows)


if __name__ == "__main__":
    main()
