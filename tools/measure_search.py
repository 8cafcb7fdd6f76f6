"""Measures what `smidgen quantize --bpw` finds, beside single types, on text that neither calibration nor the search has read.

    cargo build --release
    python3 tools/measure_search.py target/release/smidgen ../shared/data > bench/record/$(date -u +%F)-search.json

Calibration and search read a piece of TinyStories' training split, the judge a piece of its validation split. `kl` is in nats.
`bits_per_weight` counts the bytes of all tensors, `bytes` the whole file with its vocabulary.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import show

MODELS = {
    "stories260K": ("llama2c/stories260K.bin", [2.6, 3.0, 3.5, 4.0, 4.3, 4.6, 5.0]),
    "tales-3m": ("hf/tales-3m", [2.3, 2.6, 3.0, 4.0, 5.0]),
}
TYPES = ["q2_w", "q3_w", "q4_w", "q5_w", "q6_w", "q8_w"]
CHUNKS = "8"


def output(words):
    return json.loads(subprocess.run(words, check=True, capture_output=True).stdout)


def main():
    smidgen, data = sys.argv[1], Path(sys.argv[2])
    wanted = sys.argv[3:] or MODELS
    results = []
    with tempfile.TemporaryDirectory() as directory:
        os.environ["SMIDGEN_CACHE"] = directory
        calibration = Path(directory) / "text"
        calibration.write_bytes((data / "text/tinystories.txt").read_bytes()[: 1 << 20].rsplit(b"\n", 1)[0])
        for name in wanted:
            place, sizes = MODELS[name]
            model, out = str(data / place), str(Path(directory) / "out.gguf")
            runs = [(kind, [kind, "--pure"]) for kind in TYPES] + [(f"--bpw {bits}", ["--bpw", str(bits)]) for bits in sizes]
            for what, flags in runs:
                began = time.monotonic()
                report = output([smidgen, "quantize", model, out, *flags, "-f", str(calibration), "--json"])
                seconds = time.monotonic() - began
                words = [smidgen, "eval", out, "--against", model, "-f", str(data / "text/tinystories-valid.txt")]
                judged = output([*words, "--chunks", CHUNKS, "--json"])
                row = {"model": name, "types": what, "bytes": report["bytes"], "seconds": round(seconds, 1)}
                row["bits_per_weight"] = round(report["bits_per_weight"], 3)
                row |= {key: float(f"{judged[key]:.4g}") for key in ["kl_mean", "kl_p99", "same_top"]}
                results.append(row)
                print(row, file=sys.stderr)
    command = "python3 tools/measure_search.py target/release/smidgen ../shared/data"
    show(command, f"{platform.machine()}, {os.cpu_count()} cores, shared with other work while this ran", results)


if __name__ == "__main__":
    main()
