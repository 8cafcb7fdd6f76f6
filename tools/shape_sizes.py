"""What files of well-known shapes become: SmolLM-135M and GPT-2 124M with every weight zero, by `quantize --dry-run`.

    python tools/shape_sizes.py target/release/smidgen ../shared/data > bench/record/$(date -u +%F)-shape-sizes.json

Needs the packages numpy and gguf. The vocabularies are real ones of the same size, from the shared data: starcoder's 49,152
pieces for SmolLM, GPT-2's own. Sizes do not depend on the weights, so the files are holes.
"""

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from bench_models import SHAPES, begin
from record import show

# What the shapes of `tools/bench_models.py` are called in the record.
NAMES = {"smol135": "SmolLM-135M", "gpt2-124": "GPT-2 124M"}
# What is asked of each.
RUNS = {
    "SmolLM-135M": ["Q2_W", "Q2_W --pure", "Q3_W", "Q4_W", "Q8_W", "Q2_K --fallback llama", "Q4_K_M --fallback llama"],
    "GPT-2 124M": ["Q2_W", "Q2_W --pure", "Q3_W", "Q4_W --pure", "Q4_W --embedding-type Q3_W", "Q8_W", "Q2_K", "Q4_K_M"],
}


def write(path, vocabulary, *shape):
    """Writes one model with a hole for all its weights; says how many there are."""
    writer, shapes, _ = begin(path, vocabulary, *shape)
    writer.close()
    n_bytes = sum(
        -(-info.nbytes // writer.data_alignment) * writer.data_alignment
        for tensors in writer.tensors for info in tensors.values()
    )
    header = path.stat().st_size
    header += -header % writer.data_alignment
    with open(path, "r+b") as file:
        file.truncate(header + n_bytes)
    return sum(int(numpy.prod(shape)) for shape in shapes.values())


def main():
    program, data = sys.argv[1], Path(sys.argv[2])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for shape, name in NAMES.items():
            arch, vocabulary, *sizes = SHAPES[shape]
            path = Path(folder) / f"{arch}.gguf"
            n_weights = write(path, data / f"tok/ggml-vocab-{vocabulary}.gguf", arch, *sizes)
            for options in RUNS[name]:
                command = [program, "quantize", path, *options.split(), "--dry-run", "--json"]
                run = subprocess.run(command, capture_output=True, text=True)
                if run.returncode:
                    sys.exit(run.stderr)
                said = json.loads(run.stdout)
                rows.append({
                    "shape": name, "weights": n_weights, "asked": options, "bytes": said["bytes"],
                    "megabytes": round(said["bytes"] / 1e6, 1), "bits_per_weight": round(said["bits_per_weight"], 3),
                    "types": {kind: part["n_tensors"] for kind, part in said["types"].items()},
                })
    command = "python tools/shape_sizes.py target/release/smidgen ../shared/data"
    show(command, f"{platform.machine()}, {platform.system()} {platform.release()}", rows)


if __name__ == "__main__":
    main()
