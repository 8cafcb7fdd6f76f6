"""Rounds a real model to every block type with ggml's quantizers and with ours, and measures what it does to predictions.

    python3 -m venv /tmp/peer && /tmp/peer/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0 numpy torch transformers
    cargo build --release -p smidgen-compress --example quantize_rows
    /tmp/peer/bin/python tools/rounded_model.py target/release/examples/quantize_rows ../shared/data \
        > bench/record/$(date -u +%F)-rounded-model.json

The model is tales-3m, its importances the mean squares of what its matrices are multiplied with on a training text. Its rows,
192 and 512 wide, are cut anew where they must be, four of 192 to one of 768, each weight with its own importance. All
matrices but the embedding are rounded to one type and run as floats, on text of which importances saw nothing. Each row of
the record has the mean KL divergence from the model as it was, the weighted error in parts of the weighted size, and how
much of the size is left (`size`, the weighted product of a weight and what became of it over the weighted square).
"""

import argparse
import platform
import sys
from pathlib import Path

import llama_cpp
import numpy
import torch
from llama_cpp_encoders import TYPES, Kind, by_ggml, by_us, ggml
from transformers import AutoModelForCausalLM, AutoTokenizer
from record import show

LENGTH, N_CALIBRATION, N_SCORED, BATCH, WIDE = 256, 64, 32, 8, 768


def chunks(tokenizer, path, n_chunks):
    tokens = tokenizer(path.read_text()[: n_chunks * LENGTH * 6])["input_ids"]
    return torch.tensor(tokens[: n_chunks * LENGTH]).reshape(n_chunks, LENGTH)


def log_probabilities(model, tokens):
    with torch.no_grad():
        return torch.cat([torch.log_softmax(model(batch).logits, -1) for batch in tokens.split(BATCH)])


def mean_squares(model, matrices, tokens):
    """Of the input of each matrix, by column."""
    sums = {name: 0.0 for name in matrices}

    def watch(name):
        def hook(_, inputs):
            sums[name] = sums[name] + inputs[0].flatten(0, 1).square().sum(0)

        return matrices[name].register_forward_pre_hook(hook)

    hooks = [watch(name) for name in matrices]
    log_probabilities(model, tokens)
    for hook in hooks:
        hook.remove()
    return {name: (total / tokens.numel()).numpy() for name, total in sums.items()}


def rounded(write, kind, weights, importance):
    columns = weights.shape[1]
    n = WIDE // columns if WIDE % columns == 0 else 1
    rows = numpy.ascontiguousarray(weights.reshape(-1, columns * n))
    blocks = write(kind, rows, numpy.ascontiguousarray(numpy.tile(importance, n).astype("<f4")))
    return kind.read(blocks).reshape(weights.shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("data", type=Path)
    parser.add_argument("--types", nargs="*", default=TYPES)
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.data / "hf/tales-3m", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.data / "hf/tales-3m")
    matrices = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    weights = {name: module.weight.detach().clone().numpy() for name, module in matrices.items()}
    importances = mean_squares(model, matrices, chunks(tokenizer, options.data / "text/tinystories.txt", N_CALIBRATION))
    scored = chunks(tokenizer, options.data / "text/tinystories-valid.txt", N_SCORED)
    base = log_probabilities(model, scored)
    library = ggml()
    writers = {
        "ggml": lambda *row: by_ggml(library, *row),
        "smidgen": lambda *row: by_us(options.program, *row)[0],
    }
    results = []
    for name in options.types:
        kind = Kind(name)
        for by, write in writers.items():
            error, size, kept = 0.0, 0.0, 0.0
            for matrix, module in matrices.items():
                old, importance = weights[matrix].astype(numpy.float64), importances[matrix]
                new = rounded(write, kind, weights[matrix], importance)
                error += (importance * (new - old) ** 2).sum()
                size += (importance * old**2).sum()
                kept += (importance * old * new).sum()
                with torch.no_grad():
                    module.weight.copy_(torch.from_numpy(new))
            scores = log_probabilities(model, scored)
            kl = (base.exp() * (base - scores)).sum(-1).mean().item()
            figures = {"kl": float(f"{kl:.4g}"), "error": float(f"{error / size:.4g}"), "size": round(kept / size, 4)}
            results.append({"type": name, "by": by} | figures)
            print(results[-1], file=sys.stderr)
    command = "python tools/rounded_model.py " + " ".join(sys.argv[1:])
    show(command, f"{platform.machine()}, llama-cpp-python {llama_cpp.__version__}, torch {torch.__version__}", results)


if __name__ == "__main__":
    main()
