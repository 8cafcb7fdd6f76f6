"""Times whole processes of smidgen and llama.cpp on the same files, alternately, and prints the record (`cargo xtask bench start`).

    python tools/bench_start.py target/release/smidgen FOLDER [--models A-TYPE,B-TYPE] [--busy A-TYPE] [--repetitions 7]

FOLDER holds the files that `tools/bench_models.py` makes. llama.cpp is the library that llama-cpp-python brings, under a C program of
a page that does what its own command does, greedily and without an interpreter: so nothing of Python is timed or counted. Both begin
with token 1 and go on for as many tokens as asked, whatever they are, with a context of 64.

Three things are measured. Start: how long a process takes that makes one token. Peak: the most memory that was resident (VmHWM, as each
process reads it of itself) after 64 tokens. Busy: how long 64 tokens take on two threads with nothing, one or two endless loops
beside, and how many times the idle run that is.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import llama_cpp

from record import machine, peer, show

PEER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "llama.h"

static void silent(enum ggml_log_level level, const char *text, void *data) {}

int main(int argc, char **argv) {
    int n_tokens = atoi(argv[2]), n_threads = atoi(argv[3]);
    llama_log_set(silent, NULL);
    llama_backend_init();
    struct llama_model_params about_model = llama_model_default_params();
    about_model.n_gpu_layers = 0;
    struct llama_model *model = llama_model_load_from_file(argv[1], about_model);
    struct llama_context_params about = llama_context_default_params();
    about.n_ctx = 64;
    about.n_batch = about.n_ubatch = 64;
    about.n_threads = about.n_threads_batch = n_threads;
    struct llama_context *context = model ? llama_init_from_model(model, about) : NULL;
    if (!context) return 1;
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    struct llama_sampler *greedy = llama_sampler_init_greedy();
    llama_token token = 1;
    for (int i = 0; i < n_tokens; i++) {
        if (llama_decode(context, llama_batch_get_one(&token, 1)) != 0) return 1;
        token = llama_sampler_sample(greedy, context, -1);
        char piece[256];
        int n = llama_token_to_piece(vocab, token, piece, sizeof piece, 0, 1);
        if (n > 0) fwrite(piece, 1, n, stdout);
        fflush(stdout);
    }
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, "VmHWM:", 6)) fprintf(stderr, "%s", line);
    return 0;
}
"""


def build_peer(folder):
    """The program above in `folder`, linked with the library that Python's package has."""
    package = Path(llama_cpp.__file__).parent
    source, program = Path(folder) / "peer.c", Path(folder) / "peer"
    source.write_text(PEER)
    paths = [f"-I{package.parent}/include", f"-L{package}/lib", f"-Wl,-rpath,{package}/lib"]
    libraries = ["-lllama", "-lggml", "-lggml-base"]
    subprocess.run([os.environ.get("CC", "cc"), "-O2", source, "-o", program, *paths, *libraries], check=True)
    return str(program)


def ours(smidgen, path, n_tokens, n_threads):
    words = [smidgen, "run", path, "--ids", "1", "-n", n_tokens, "-c", 64, "-t", n_threads, "--temp", 0, "--ignore-eos", "--json"]
    began = time.monotonic()
    done = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)
    return (time.monotonic() - began) * 1e3, json.loads(done.stdout)["peak_bytes"]


def theirs(program, path, n_tokens, n_threads):
    began = time.monotonic()
    done = subprocess.run([program, path, str(n_tokens), str(n_threads)], check=True, capture_output=True)
    wall = (time.monotonic() - began) * 1e3
    return wall, int(done.stderr.split()[1]) * 1024


def alternately(repetitions, *ways):
    """The medians of what each of `ways` gives, of which one time each is not counted."""
    runs = [[way() for way in ways] for _ in range(repetitions + 1)][1:]
    return [[statistics.median(figures) for figures in zip(*(run[index] for run in runs))] for index in range(len(ways))]


def start(smidgen, program, path, repetitions):
    """Start and peak of both; the ratios are smidgen's share."""
    row = {"file": path.name, "file_bytes": path.stat().st_size, "test": "start"}
    for n_tokens, index, name in ((1, 0, "one_token_ms"), (63, 1, "peak_bytes")):
        ways = [lambda: ours(smidgen, path, n_tokens, 1), lambda: theirs(program, path, n_tokens, 1)]
        us, them = (figures[index] for figures in alternately(repetitions, *ways))
        row |= {f"smidgen_{name}": round(us, 1), f"llama_cpp_{name}": round(them, 1), f"{name}_share": round(us / them, 3)}
    return row


def busy(smidgen, program, path, repetitions):
    """Rows for no, one and two loops beside."""
    idle = None
    for n_loops in range(3):
        loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_loops)]
        try:
            ways = [lambda: ours(smidgen, path, 63, 2), lambda: theirs(program, path, 63, 2)]
            walls = [figures[0] for figures in alternately(repetitions, *ways)]
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
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default="stories260K-F32,stories260K-Q8_0,s15M-Q8_0,smol135-Q8_0,smol135-Q4_0,gpt2-124-Q4_0")
    parser.add_argument("--busy", default="stories260K-Q8_0,smol135-Q8_0")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        program = build_peer(directory)
        for names, measure in ((arguments.models, start), (arguments.busy, busy)):
            for path in (arguments.folder / f"{name}.gguf" for name in names.split(",")):
                if path.exists():
                    found = measure(arguments.smidgen, program, path, arguments.repetitions)
                    for row in [found] if isinstance(found, dict) else found:
                        rows.append(row)
                        print(row, file=sys.stderr)
    show(" ".join(["python", *sys.argv]), f"{machine()}, {peer()}", rows)


if __name__ == "__main__":
    main()
