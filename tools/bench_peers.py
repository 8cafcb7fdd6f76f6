"""Times smidgen beside llama.cpp on the same files, alternately, and prints the record (`cargo xtask bench peers` runs it).

    python tools/bench_peers.py target/release/smidgen FOLDER [--models A,B] [--types X,Y] [--threads 1,2] [--repetitions 7]

Needs llama-cpp-python (pinned in tools/bench_requirements.txt) and a C compiler; FOLDER holds the files that
`tools/bench_models.py` makes, called NAME-TYPE.gguf. Each repetition is a process of each program, which loads the file, runs every
test once without looking at the clock and once with it. llama.cpp runs through its C API, twice: as it comes (F16 caches, flash attention
as it sees fit), and with exact caches and no flash attention, as smidgen runs. Of the two its better figure counts, test by test. Its
decode loop is C, so that no interpreter is timed. smidgen runs in three ways (`WAYS`), and its best figure counts; what it does as
it comes stands beside. A repetition begins when others leave the machine alone and is made again when they
did not meanwhile; `others_busy` says what share of the processors they used in those that count.

Some virtual machines announce AMX and end whoever uses it with an illegal instruction. There llama.cpp is installed without:
`CFLAGS="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" CXXFLAGS="$CFLAGS" cargo xtask bench peers`; the record says so.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import Load, machine, peer as peer_name, show, wait_until_quiet

# The tests: kind, tokens, depth.
TESTS = [("prompt", 64, 0), ("prompt", 512, 0), ("decode", 128, 0), ("decode", 128, 512)]
# Where llama.cpp has no type of the bits asked for that its own programs would write, what it writes instead.
ANSWERS = {"Q2_W": "Q2_K", "Q4_W": "Q4_K", "Q8_W": "Q8_0"}

# A repetition counts as disturbed when others use more than this share of the processors meanwhile, and is then made again, as often
# as makes this many times the repetitions asked for.
DISTURBED, TRIES = 0.1, 2

LOOP = r"""
#include <stdint.h>
#include <time.h>

/* As llama.h has it. */
struct batch {
    int32_t n_tokens;
    int32_t *token;
    float *embd;
    int32_t *pos;
    int32_t *n_seq_id;
    int32_t **seq_id;
    int8_t *logits;
};

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

/* Decodes n tokens one after the other from position `from` on; seconds, or less than zero. */
double decode(int (*llama_decode)(void *, struct batch), float *(*llama_get_logits)(void *), void *context,
              struct batch batch, const int32_t *tokens, int n, int from) {
    double began = seconds();
    for (int i = 0; i < n; i++) {
        batch.n_tokens = 1;
        batch.token[0] = tokens[i];
        batch.pos[0] = from + i;
        batch.logits[0] = 1;
        if (llama_decode(context, batch) != 0 || !llama_get_logits(context)) return -1;
    }
    return seconds() - began;
}

/* Decodes n tokens in one batch, with logits for the last; seconds, or less than zero. */
double prompt(int (*llama_decode)(void *, struct batch), float *(*llama_get_logits)(void *), void *context,
              struct batch batch, const int32_t *tokens, int n, int from) {
    double began = seconds();
    for (int i = 0; i < n; i++) {
        batch.token[i] = tokens[i];
        batch.pos[i] = from + i;
        batch.logits[i] = i == n - 1;
    }
    batch.n_tokens = n;
    if (llama_decode(context, batch) != 0 || !llama_get_logits(context)) return -1;
    return seconds() - began;
}
"""


def build_loop(folder):
    """The loops above as a library in `folder`."""
    source, library = Path(folder) / "loop.c", Path(folder) / "loop.so"
    source.write_text(LOOP)
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def peer(library, path, n_threads, is_exact):
    """One repetition of llama.cpp, in a process of its own: prints seconds."""
    began = time.monotonic()
    import llama_cpp

    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
    assert model, path
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = max(depth + n for _, n, depth in TESTS)
    settings.n_batch = settings.n_ubatch = 512
    settings.n_threads = settings.n_threads_batch = n_threads
    if is_exact:
        settings.flash_attn_type = 0
        settings.type_k = settings.type_v = 0
    context = llama_cpp.llama_init_from_model(model, settings)
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    loaded = time.monotonic() - began
    loops = ctypes.CDLL(library)
    batch = llama_cpp.llama_batch_init(512, 0, 1)
    for i in range(512):
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    shared = llama_cpp.llama_cpp._lib
    functions = [ctypes.cast(function, ctypes.c_void_p) for function in (shared.llama_decode, shared.llama_get_logits)]
    ids = (ctypes.c_int32 * settings.n_ctx)(*(i * 7919 % n_vocab for i in range(settings.n_ctx)))

    def run(kind, n, start):
        loop = getattr(loops, kind)
        loop.restype = ctypes.c_double
        context_pointer = ctypes.cast(context, ctypes.c_void_p)
        tokens = ctypes.cast(ctypes.byref(ids, 4 * start), ctypes.c_void_p)
        seconds = loop(*functions, context_pointer, batch, tokens, ctypes.c_int(n), ctypes.c_int(start))
        assert seconds > 0, "llama_decode failed"
        return seconds

    def once(kind, n, depth):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        if depth:
            run("prompt", depth, 0)
        return run(kind, n, depth)

    rates = []
    for test in TESTS:
        once(*test)
        rates.append(test[1] / once(*test))
    print(json.dumps({"load_ms": loaded * 1e3, "rates": rates}))


# The ways in which smidgen runs: as it comes, which maps files of more than 64 MiB and has batches of 16 tokens, and as somebody runs it
# who has the memory: the file read, and its rows laid together; a batch of 256 tokens; once more with caches as llama.cpp has them.
READ = ["--no-mmap", "-b", "256"]
WAYS = [[], READ, [*READ, "--ctk", "f16", "--ctv", "f16"]]


def ours(smidgen, path, n_threads):
    """The rates of one repetition of smidgen: as it comes, and the best of all its ways, test by test."""
    words = [smidgen, "bench", path, "-p", "64,512", "-n", "128", "-d", "0,512", "-r", "1", "-t", str(n_threads), "--json"]
    said = [subprocess.run(words + way, check=True, capture_output=True, text=True).stdout for way in WAYS]
    ways = [[test["tokens_per_s"] for test in json.loads(text)["tests"]] for text in said]
    return ways[0], [max(rates) for rates in zip(*ways)]


def theirs(library, path, n_threads):
    """The rates of one repetition of llama.cpp, the better ones of both its ways."""
    words = [sys.executable, __file__, "--peer", library, path, str(n_threads)]
    ways = [subprocess.run([*words, way], check=True, capture_output=True, text=True).stdout for way in ("default", "exact")]
    return [max(rates) for rates in zip(*(json.loads(way)["rates"] for way in ways))]


def compare(smidgen, library, path, their_path, n_threads, repetitions):
    """Rows, one for each test: medians with the smallest and the largest, of both."""
    runs = []
    for _ in range(TRIES * repetitions):
        wait_until_quiet(DISTURBED, 5)
        load = Load()
        plain, us, them = *ours(smidgen, path, n_threads), theirs(library, their_path, n_threads)
        runs.append((load.share(), plain, us, them))
        if sum(share < DISTURBED for share, *_ in runs) == repetitions:
            break
    # Where others never leave the machine alone, the least disturbed count.
    runs = sorted(runs, key=lambda run: run[0])[:repetitions]
    others = statistics.median(share for share, *_ in runs)
    plain, us, them = ([run[column] for run in runs] for column in (1, 2, 3))
    for index, (kind, n, depth) in enumerate(TESTS):
        row = {"file": Path(path).name, "threads": n_threads, "test": f"{'pp' if kind == 'prompt' else 'tg'}{n}" + f"@{depth}" * (depth > 0)}
        if their_path != path:
            row["llama_cpp_file"] = Path(their_path).name
        medians = []
        for name, runs in (("smidgen", us), ("llama_cpp", them), ("as_it_comes", plain)):
            rates = sorted(run[index] for run in runs)
            medians.append(statistics.median(rates))
            row |= {f"{name}_tokens_per_s": round(medians[-1], 1), f"{name}_min": round(rates[0], 1), f"{name}_max": round(rates[-1], 1)}
        row |= {"ratio": round(medians[0] / medians[1], 2), "others_busy": round(others, 3)}
        yield row


def main():
    if sys.argv[1] == "--peer":
        return peer(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5] == "exact")
    parser = argparse.ArgumentParser()
    parser.add_argument("smidgen")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default="stories260K,s15M,smol135,gpt2-124,qwen3-0.6B")
    parser.add_argument("--types", default="F32,F16,Q8_0,Q4_0,Q4_K,Q2_K,IQ2_XXS,Q2_W")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        library = build_loop(directory)
        for model in arguments.models.split(","):
            for kind in arguments.types.split(","):
                path = arguments.folder / f"{model}-{kind}.gguf"
                their_path = arguments.folder / f"{model}-{ANSWERS.get(kind, kind)}.gguf"
                if not (path.exists() and their_path.exists()):
                    continue
                for n_threads in map(int, arguments.threads.split(",")):
                    for row in compare(arguments.smidgen, library, str(path), str(their_path), n_threads, arguments.repetitions):
                        rows.append(row)
                        print(row["file"], row["threads"], row["test"], row["smidgen_tokens_per_s"], row["llama_cpp_tokens_per_s"], row["ratio"], file=sys.stderr)
    show(" ".join(["python", *sys.argv]), f"{machine()}, {peer_name()}", rows)


if __name__ == "__main__":
    main()
