"""What rounding costs real models: llama.cpp's quantizer beside ours, with the same imatrix, on text neither has seen.

    python3 -m venv /tmp/peer && /tmp/peer/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0 numpy
    cargo build --release
    /tmp/peer/bin/python tools/quality_against_llama_cpp.py target/release/smidgen ../shared/data \
        > bench/record/$(date -u +%F)-quality.json

The models are stories260K, babyllama and tales-3m in f32. `smidgen calibrate --hessian` reads the first 150,000 characters of
TinyStories; both programs get its imatrix, and ours its second moments too. Every file is measured by `smidgen eval --against` on
the first 40 chunks of 60,000 characters of the validation text; rows of `by` "llama.cpp" are its files. Where rows do not fit a type, both take what
llama.cpp takes (`--fallback llama`). Our own types are asked for as recipes; `tools/measure_search.py` has types chosen to a size.
"""

import ctypes
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy
from llama_cpp_imatrix import our_sums
from record import show

MODELS = {
    "stories260K": ("llama2c/stories260K.bin", "llama2c/tok512.bin"),
    "babyllama": ("llama2c/babyllama.bin", "llama2c/babyllama.tok.bin"),
    "tales-3m": ("hf/tales-3m", None),
}
# The names of llama.cpp's that its files and ours are made by.
SHARED = ["Q2_K", "IQ4_NL", "Q4_0", "Q4_K_M", "Q8_0"]
OURS = ["Q2_W", "Q3_W", "Q4_W", "Q5_W", "Q6_W", "Q8_W"]
CALIBRATION, EVALUATION, CONTEXT, CHUNKS = 150_000, 60_000, 256, 40


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr}")
    return done.stdout


def by_llama_cpp(base, kind, imatrix, out):
    sums, counts = our_sums(imatrix)
    means = {name: (values / counts[name][0]).astype(numpy.float32) for name, values in sums.items()}
    rows = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()
    for row, (name, values) in zip(rows, means.items()):
        row.name, row.size = name.encode(), len(values)
        row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    parameters.nthread = 2
    parameters.imatrix = ctypes.cast(rows, type(parameters.imatrix))
    assert llama_cpp.llama_model_quantize(str(base).encode(), str(out).encode(), ctypes.byref(parameters)) == 0


def measured(program, model, base, text):
    said = json.loads(run(program, "eval", model, "--against", base, "-f", text, "-c", CONTEXT, "--chunks", CHUNKS, "--json"))
    return {
        "bytes": model.stat().st_size,
        "bits_per_weight": round(said["bits_per_weight"], 3),
        "kl_mean": float(f"{said['kl_mean']:.4g}"),
        "kl_p99": float(f"{said['kl_p99']:.4g}"),
        "same_top_percent": round(100 * said["same_top"], 1),
    }


def rows_of(program, name, base, imatrix, texts, folder):
    out = folder / "out.gguf"
    for kind in SHARED:
        by_llama_cpp(base, kind, imatrix, out)
        yield {"model": name, "type": kind, "by": "llama.cpp"} | measured(program, out, base, texts[1])
        run(program, "quantize", base, out, kind, "--imatrix", imatrix, "--fallback", "llama")
        yield {"model": name, "type": kind, "by": "smidgen"} | measured(program, out, base, texts[1])
    for kind in OURS:
        run(program, "quantize", base, out, kind, "--imatrix", imatrix)
        yield {"model": name, "type": kind, "by": "smidgen"} | measured(program, out, base, texts[1])


def main():
    program, data = sys.argv[1], Path(sys.argv[2])
    results = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        texts = [folder / "calibration.txt", folder / "evaluation.txt"]
        for path, name, n in zip(texts, ["tinystories.txt", "tinystories-valid.txt"], [CALIBRATION, EVALUATION]):
            path.write_text((data / "text" / name).read_text()[:n])
        for name, (model, tokenizer) in MODELS.items():
            base, imatrix = folder / f"{name}.gguf", folder / f"{name}.imatrix.gguf"
            words = ["--tokenizer", data / tokenizer] if tokenizer else []
            run(program, "convert", data / model, "-o", base, "--outtype", "f32", *words)
            run(program, "calibrate", base, "-f", texts[0], "-o", imatrix, "--hessian")
            for row in rows_of(program, name, base, imatrix, texts, folder):
                results.append(row)
                print(row, file=sys.stderr, flush=True)
    command = "python tools/quality_against_llama_cpp.py target/release/smidgen ../shared/data"
    show(command, f"{platform.machine()}, {platform.system()} {platform.release()}, llama-cpp-python {llama_cpp.__version__}", results)


if __name__ == "__main__":
    main()
