"""What rounding costs real models: llama.cpp's quantizer beside ours, with the same imatrix, on text neither has seen.

    python3 -m venv /tmp/peer && /tmp/peer/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0 numpy
    cargo build --release
    /tmp/peer/bin/python tools/quality_against_llama_cpp.py target/release/smidgen ../shared/data WIDE \
        > bench/record/$(date -u +%F)-quality.json

The models are stories260K, babyllama and tales-3m in f32, and WIDE, the directory of a model whose rows llama.cpp's formats of
256 take, which `tools/train_embedded.py` trains. `smidgen calibrate --hessian` reads the first 150,000 characters of TinyStories;
both programs get its imatrix, and ours its second moments too. Every file is measured on the first 40 chunks of 60,000
characters of the validation text, by `smidgen eval --against` and, where llama.cpp knows its types, in llama.cpp itself against
the f32 file there: `kl_in_llama_cpp`, null for babyllama, at whose vocabulary it stops. Rows of `by` "llama.cpp" are its
files. Where rows do not fit a type, both take what llama.cpp takes (`--fallback llama`). Our own types are asked for as
recipes; `tools/measure_search.py` has types chosen to a size.
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
from llama_cpp_perplexity import figures
from record import show

MODELS = {
    "stories260K": ("llama2c/stories260K.bin", "llama2c/tok512.bin"),
    "babyllama": ("llama2c/babyllama.bin", "llama2c/babyllama.tok.bin"),
    "tales-3m": ("hf/tales-3m", None),
}
# The names of llama.cpp's that its files and ours are made by, with rows of 256 and without.
OF_256 = ["IQ2_XXS", "IQ2_S", "Q2_K_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K_S", "Q3_K_M", "IQ4_XS", "Q4_0", "Q4_K_M"]
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


def measured_there(model, base, text):
    """What llama.cpp itself says of a file that it can run."""
    if base.stem == "babyllama":
        return {"kl_in_llama_cpp": None}
    found = figures(str(model), str(base), text.read_bytes(), CONTEXT, CHUNKS)
    return {"kl_in_llama_cpp": float(f"{found['kl_mean']:.4g}")}


def rows_of(program, name, base, imatrix, texts, folder):
    out = folder / "out.gguf"

    def row(kind, by):
        there = measured_there(out, base, texts[1])
        return {"model": name, "type": kind, "by": by} | measured(program, out, base, texts[1]) | there

    for kind in OF_256 if name == "wide" else SHARED:
        by_llama_cpp(base, kind, imatrix, out)
        yield row(kind, "llama.cpp")
        run(program, "quantize", base, out, kind, "--imatrix", imatrix, "--fallback", "llama")
        yield row(kind, "smidgen")
    for kind in OURS:
        run(program, "quantize", base, out, kind, "--imatrix", imatrix)
        yield {"model": name, "type": kind, "by": "smidgen"} | measured(program, out, base, texts[1])


def prepare(program, data, model, tokenizer, name, folder):
    """The f32 file of a model, its imatrix with moments, and the texts to calibrate with and to judge on, in `folder`."""
    texts = [folder / "calibration.txt", folder / "evaluation.txt"]
    for path, text, n in zip(texts, ["tinystories.txt", "tinystories-valid.txt"], [CALIBRATION, EVALUATION]):
        path.write_text((data / "text" / text).read_text()[:n])
    base, imatrix = folder / f"{name}.gguf", folder / f"{name}.imatrix.gguf"
    words = ["--tokenizer", data / tokenizer] if tokenizer else []
    run(program, "convert", data / model, "-o", base, "--outtype", "f32", *words)
    run(program, "calibrate", base, "-f", texts[0], "-o", imatrix, "--hessian")
    return base, imatrix, texts


def main():
    program, data, wide = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p())
    results = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, (model, tokenizer) in ({"wide": (wide.absolute(), None)} | MODELS).items():
            base, imatrix, texts = prepare(program, data, model, tokenizer, name, folder)
            for row in rows_of(program, name, base, imatrix, texts, folder):
                results.append(row)
                print(row, file=sys.stderr, flush=True)
    command = "python tools/quality_against_llama_cpp.py target/release/smidgen ../shared/data wide"
    show(command, f"{platform.machine()}, {platform.system()} {platform.release()}, llama-cpp-python {llama_cpp.__version__}", results)


if __name__ == "__main__":
    main()
