"""Times smidgen beside llama2.c's `run` and `runq` on its own files, and prints the record (`cargo xtask bench llama2c SOURCE`).

    python tools/bench_llama2c.py SMIDGEN SOURCE DATA FOLDER [--repetitions 7]

SOURCE holds `run.c` and `runq.c` of karpathy/llama2.c, which are compiled with `cc -Ofast -march=native`, DATA the checkpoint
stories260K.bin and tok512.bin. The 15M shape gets random weights, as floats (the layout that `export.py` calls 0) and in groups of
bytes (2), in FOLDER. Both begin with BOS and take the best token each time on one thread, one after the other; each says itself how fast
it was from the second token on, and of 260K the texts are compared.
"""

import argparse
import hashlib
import json
import re
import statistics
import struct
import subprocess
import sys
from pathlib import Path

from record import machine, show

N_VOCAB, N_EMBD, N_FF, N_LAYERS, N_HEADS, CONTEXT = 32000, 288, 768, 6, 6, 256
GROUP = 32


def shape():
    return struct.pack("<7i", N_EMBD, N_FF, N_LAYERS, N_HEADS, N_HEADS, N_VOCAB, CONTEXT)


def write_models(folder):
    import numpy

    random = numpy.random.default_rng(15)
    floats = lambda *size: (random.standard_normal(size, numpy.float32) * 0.05).tobytes()
    ones = lambda *size: numpy.ones(size, "<f4").tobytes()
    square, wide = (N_LAYERS, N_EMBD, N_EMBD), (N_LAYERS, N_FF, N_EMBD)
    with open(folder / "s15M.bin", "wb") as file:
        file.write(shape() + floats(N_VOCAB, N_EMBD) + ones(N_LAYERS, N_EMBD))
        for _ in range(4):
            file.write(floats(*square))
        file.write(ones(N_LAYERS, N_EMBD) + floats(*wide) + floats(*wide) + floats(*wide) + ones(N_EMBD))
        file.write(bytes(2 * CONTEXT * (N_EMBD // N_HEADS // 2) * 4))
    with open(folder / "s15M-groups.bin", "wb") as file:
        file.write((struct.pack("<Ii", 0x616B3432, 2) + shape() + struct.pack("<Bi", 1, GROUP)).ljust(256, b"\0"))
        file.write(ones(2 * N_LAYERS + 1, N_EMBD))
        for n in [N_VOCAB * N_EMBD] + [N_EMBD * N_EMBD] * 4 * N_LAYERS + [N_FF * N_EMBD] * 3 * N_LAYERS:
            file.write(random.integers(-127, 128, n, "i1").tobytes() + numpy.full(n // GROUP, 0.05 / 64, "<f4").tobytes())
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n"] + [b"<0x%02X>" % byte for byte in range(256)]
    pieces += [b"t%d" % index for index in range(len(pieces), N_VOCAB)]
    with open(folder / "s15M.tok.bin", "wb") as file:
        file.write(struct.pack("<i", max(map(len, pieces))))
        for piece in pieces:
            file.write(struct.pack("<fi", 0, len(piece)) + piece)


def compile_programs(source, folder):
    """The programs by name, and what they were made of."""
    digests = []
    for name in ("run", "runq"):
        path = source / f"{name}.c"
        subprocess.run(["cc", "-Ofast", "-march=native", "-o", folder / name, path, "-lm"], check=True)
        digests.append(f"{name}.c {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}")
    compiler = subprocess.run(["cc", "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]
    return f"{', '.join(digests)}, {compiler}"


def ours(smidgen, model, tokenizer, n_tokens):
    words = ["run", model, "--tokenizer", tokenizer, "--ids", 1, "-n", n_tokens, "-t", 1, "--temp", 0, "--json"]
    done = subprocess.run(list(map(str, [smidgen, *words])), check=True, capture_output=True, text=True)
    report = json.loads(done.stdout)
    return report["timings"]["decode_tokens_per_s"], len(report["ids"]), report["continuation"]


def theirs(program, model, tokenizer, n_tokens):
    words = [program, model, "-z", tokenizer, "-t", 0, "-n", n_tokens]
    done = subprocess.run(list(map(str, words)), check=True, capture_output=True)
    return float(re.search(rb"achieved tok/s: ([\d.]+)", done.stderr)[1]), None, done.stdout.decode(errors="replace")


def compare(smidgen, program, model, tokenizer, n_tokens, repetitions):
    runs = [(ours(smidgen, model, tokenizer, n_tokens), theirs(program, model, tokenizer, n_tokens)) for _ in range(repetitions + 1)][1:]
    row = {"file": model.name, "file_bytes": model.stat().st_size, "program": program.name, "threads": 1, "tokens": runs[0][0][1]}
    for name, index in (("smidgen", 0), ("llama2_c", 1)):
        rates = [run[index][0] for run in runs]
        row |= {f"{name}_tokens_per_s": round(statistics.median(rates), 1), f"{name}_min": min(rates), f"{name}_max": max(rates)}
    row["ratio"] = round(row["smidgen_tokens_per_s"] / row["llama2_c_tokens_per_s"], 2)
    if model.name.startswith("stories"):
        row["same_text"] = runs[0][0][2].strip() == runs[0][1][2].strip()
    print(row, file=sys.stderr)
    return row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("smidgen")
    parser.add_argument("source", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    built = compile_programs(arguments.source, folder)
    write_models(folder)
    data = arguments.data / "llama2c"
    cases = [
        ("run", data / "stories260K.bin", data / "tok512.bin"),
        ("run", folder / "s15M.bin", folder / "s15M.tok.bin"),
        ("runq", folder / "s15M-groups.bin", folder / "s15M.tok.bin"),
    ]
    rows = [compare(arguments.smidgen, folder / name, *files, 200, arguments.repetitions) for name, *files in cases]
    show("cargo xtask bench llama2c SOURCE", f"{machine()}, llama2.c ({built})", rows)


if __name__ == "__main__":
    main()
