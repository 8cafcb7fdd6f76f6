"""How much smaller lossless coding could make quantized weights: the entropy of the bytes of each type, on trained models.

    python tools/weight_entropy.py target/release/smidgen MODEL... > bench/record/$(date -u +%F)-weight-entropy.json

Needs the packages gguf and numpy. Each model is quantized to each type that its rows can have. `ideal` is what a coder would reach
that knows the histogram of every byte of a block (scales and codes apart) and pays nothing for it; `xz` is what `xz -9` makes of the
weights as they lie in the file; both as shares of the bytes of the matrices. Norms and metadata are left out.
"""

import json
import lzma
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy
from record import show

TYPES = ["F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_0", "Q4_K", "Q4_0", "IQ4_NL", "Q3_K", "Q2_K", "IQ3_XXS", "IQ2_XXS", "TQ2_0",
         "Q8_W", "Q6_W", "Q5_W", "Q4_W", "Q3_W", "Q2_W"]


def describe(smidgen, path):
    done = subprocess.run([smidgen, "inspect", path, "--json"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["tensors"]


def ideal_bytes(blocks):
    """Bytes that a coder needs for blocks, (n, bytes of a block), with a histogram for each byte of a block."""
    bits = 0.0
    for column in blocks.T:
        counts = numpy.bincount(column, minlength=256)
        counts = counts[counts > 0]
        bits -= (counts * numpy.log2(counts / counts.sum())).sum()
    return bits / 8


def measure(smidgen, path, kind):
    data = numpy.fromfile(path, numpy.uint8)
    stored = ideal = 0
    raw = bytearray()
    for tensor in describe(smidgen, path):
        if len(tensor["dims"]) < 2 or tensor["type"] != kind:
            continue
        block = BLOCKS[kind]
        part = data[tensor["offset"]:tensor["offset"] + tensor["bytes"]]
        if len(part) % block:
            continue
        stored, ideal = stored + len(part), ideal + ideal_bytes(part.reshape(-1, block))
        raw += part.tobytes()
    if not stored:
        return None
    packed = len(lzma.compress(bytes(raw), preset=9))
    return {"weight_bytes": stored, "ideal": round(float(ideal / stored), 3), "xz": round(packed / stored, 3)}


# Bytes of a block: ggml's by its package, ours by docs/any-width.md.
BLOCKS = {kind.name: sizes[1] for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
BLOCKS |= {f"Q{bits}_W": 8 * bits + 1 for bits in (2, 3, 4, 5, 6, 8)}


def main():
    smidgen, models = sys.argv[1], sys.argv[2:]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        small = str(Path(folder) / "small.gguf")
        for model in models:
            for kind in TYPES:
                if kind in ("F16", "BF16"):
                    words = ["convert", model, small, "--outtype", kind.lower()]
                else:
                    words = ["quantize", model, small, kind, "--pure"]
                done = subprocess.run([smidgen, *words], capture_output=True, text=True)
                said = measure(smidgen, small, kind) if done.returncode == 0 else None
                if said:
                    rows.append({"model": Path(model).name, "type": kind, **said})
                    print(rows[-1], file=sys.stderr)
                Path(small).unlink(missing_ok=True)
    command = "python tools/weight_entropy.py target/release/smidgen ../shared/data/hf/tales-3m ../shared/data/gguf/stories260K-v1-f32.gguf"
    show(command, f"{platform.machine()}, {platform.system()} {platform.release()}", rows)


if __name__ == "__main__":
    main()
