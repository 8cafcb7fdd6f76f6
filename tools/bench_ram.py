"""Runs smidgen and llama.cpp under the same memory cgroup and on the same disk, and prints the record (`cargo xtask bench ram`).

    python tools/bench_ram.py target/release/smidgen FILE... [--shares 100,90,75,50,25,10] [--disks local,50]
                              [--seconds 20] [--tokens 24] [--alone]

The files are GGUF files in Q8_0 with the shapes of SmolLM-135M and Qwen3-0.6B; tools/bench_models.py makes them. Needs root, cgroups of version 1 (memory, blkio) and llama-cpp-python. The cap is a share of the file and a fixed part: what
llama.cpp takes beside the file when nothing limits it. Nobody may swap, and page cache counts. A disk of 50 is the local one behind
the kernel's own throttle (blkio.throttle.read_bps_device) at 50 MB/s, a Raspberry Pi's card. Before every run the file is dropped from
the page cache, and llama.cpp enters its cgroup after its libraries are loaded, so that only what the model takes is counted. Both
decode greedily with one thread and exact (F32) caches of 256 tokens; rates are of the tokens after the first. With `--alone` only
smidgen runs, five times at each cap of a share of the file and 16 MiB, for the medians that its bound is held against.
"""

import argparse
import ctypes
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from record import machine, show

CONTEXT = 256
ROUNDS = 5
PROMPT = list(range(1, 9))
MEMORY, BLKIO = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/blkio")
MODES = {"smidgen": [], "llama.cpp, mapped": ["mapped"], "llama.cpp, --no-mmap": ["read"]}


class Group:
    """A cgroup with a cap on memory and, for a slow disk, on bytes read in a second."""

    count = 0

    def __init__(self, cap, device, disk):
        Group.count += 1
        name = f"smidgen-bench-{os.getpid()}-{Group.count}"
        self.memory, self.blkio = MEMORY / name, BLKIO / name
        for folder in (self.memory, self.blkio):
            folder.mkdir()
        if cap is not None:
            (self.memory / "memory.limit_in_bytes").write_text(str(cap))
        (self.memory / "memory.swappiness").write_text("0")
        if disk != "local":
            limit = f"{os.major(device)}:{os.minor(device)} {int(float(disk) * 1e6)}"
            (self.blkio / "blkio.throttle.read_bps_device").write_text(limit)

    def folders(self):
        return [str(self.blkio), str(self.memory)]

    def run(self, words):
        """Runs a program in this group, entered by a shell, so that nothing of this one is counted."""
        enter = " && ".join(f"echo $$ > '{folder}/cgroup.procs'" for folder in self.folders())
        return subprocess.run(["sh", "-c", f'{enter} && exec "$@"', "sh", *words], capture_output=True, text=True)

    def peak(self):
        return int((self.memory / "memory.max_usage_in_bytes").read_text())

    def remove(self):
        for folder in (self.memory, self.blkio):
            for _ in range(50):
                try:
                    folder.rmdir()
                    break
                except OSError:
                    time.sleep(0.1)


def forget(path):
    """Drops the file from the page cache."""
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def bytes_read():
    """What this process had read from disks."""
    return int(re.search(r"^read_bytes: (\d+)", Path("/proc/self/io").read_text(), re.M)[1])


def peer(way, path, n_tokens, most_seconds, *folders):
    """llama.cpp, in a process of its own."""
    import llama_cpp
    import numpy

    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    anonymous = lambda: int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    before = anonymous()
    for folder in folders:
        (Path(folder) / "cgroup.procs").write_text(str(os.getpid()))
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    parameters.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP if way == "mapped" else llama_cpp.LLAMA_LOAD_MODE_NONE
    model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
    assert model, path
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_ubatch = CONTEXT, 16, 16
    settings.n_threads = settings.n_threads_batch = 1
    settings.flash_attn_type, settings.type_k, settings.type_v = 0, 0, 0
    context = llama_cpp.llama_init_from_model(model, settings)
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(16, 0, 1)

    def decode(ids, position):
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, position + i, 1, 0
            batch.logits[i] = i == len(ids) - 1
        assert llama_cpp.llama_decode(context, batch) == 0
        logits = llama_cpp.llama_get_logits_ith(context, len(ids) - 1)
        return int(numpy.ctypeslib.as_array(logits, (n_vocab,)).argmax())

    token, position = decode(PROMPT, 0), len(PROMPT)
    faults, read, began = resource.getrusage(resource.RUSAGE_SELF).ru_majflt, bytes_read(), time.monotonic()
    n = 0
    while n < int(n_tokens) and (n < 2 or time.monotonic() - began < float(most_seconds)):
        token, position, n = decode([token], position), position + 1, n + 1
    seconds = time.monotonic() - began
    print(json.dumps({
        "tokens_per_s": n / seconds, "bytes_read_per_token": (bytes_read() - read) // n, "tokens": n,
        "major_faults_per_token": (resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults) / n,
        "anonymous_bytes": anonymous() - before,
    }))


def theirs(group, way, path, arguments):
    words = [sys.executable, __file__, "--peer", way, path, str(arguments.tokens), str(arguments.seconds), *group.folders()]
    done = subprocess.run(words, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else {"ended": ended(done)}


def ours(group, path, cap, arguments):
    ids = " ".join(map(str, PROMPT))
    words = [arguments.smidgen, "run", path, "--ids", ids, "--temp", "0", "--ignore-eos", "-c", str(CONTEXT), "-b", "16",
             "-t", "1", "--json"]
    if cap is not None:
        words += ["--ram", str(cap)]
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = group.run([*words, "-n", str(arguments.tokens + 1)])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return {"ended": ended(done)}
    said = json.loads(done.stdout)
    return {
        "tokens_per_s": said["timings"]["decode_tokens_per_s"], "bytes_read_per_token": said["streamed_bytes"],
        "tokens": arguments.tokens, "major_faults_per_token": (used.ru_majflt - started.ru_majflt) / arguments.tokens,
    }


def ended(done):
    return "killed" if done.returncode in (-9, 137) else f"status {done.returncode}: {done.stderr.strip()[-200:]}"


def storage_rate(arguments, path, device, disk):
    """Bytes in a second that the disk gives, read in order and past the page cache."""
    group = Group(None, device, disk)
    words = [arguments.smidgen, "probe", path, "--storage-only", "--json"]
    done = group.run(words)
    group.remove()
    return json.loads(done.stdout)["storage_bytes_per_s"][str(device)]


def alone(arguments, path, disk):
    """Rows for one file on one disk, of smidgen only: each cap in turn, and the disk and a run without a cap between them."""
    device, size = os.stat(path).st_dev, os.stat(path).st_size
    rates, free, found = [], [], {share: [] for share in arguments.shares}
    for _ in range(ROUNDS):
        rates.append(storage_rate(arguments, path, device, disk))
        for share, said in [(None, free), *found.items()]:
            cap = None if share is None else size * share // 100 + (16 << 20)
            group = Group(cap, device, disk)
            forget(path)
            said.append(ours(group, path, cap, arguments))
            group.remove()
    rate, unbound = statistics.median(rates), statistics.median(said["tokens_per_s"] for said in free)
    for share, said in found.items():
        tokens, n_read = statistics.median(one["tokens_per_s"] for one in said), said[0]["bytes_read_per_token"]
        bound = min(unbound, rate / max(n_read, 1))
        yield {"file": Path(path).name, "disk": disk, "share": share, "tokens_per_s": round(tokens, 2), "bytes_read_per_token": n_read,
               "storage_bytes_per_s": int(rate), "unbound_tokens_per_s": round(unbound, 2), "bound_tokens_per_s": round(bound, 2),
               "of_bound": round(tokens / bound, 2)}


def measure(arguments, path, disk):
    """Rows for one file on one disk."""
    device, size = os.stat(path).st_dev, os.stat(path).st_size
    group = Group(None, device, "local")
    free = theirs(group, "mapped", path, arguments)
    group.remove()
    fixed = free["anonymous_bytes"] + (4 << 20)
    group = Group(None, device, "local")
    ours_free = ours(group, path, None, arguments)
    group.remove()
    for share in arguments.shares:
        cap = size * share // 100 + fixed
        rate = storage_rate(arguments, path, device, disk)
        for mode, way in MODES.items():
            group = Group(cap, device, disk)
            forget(path)
            said = theirs(group, way[0], path, arguments) if way else ours(group, path, cap, arguments)
            row = {"file": Path(path).name, "disk": disk, "share": share, "cap_bytes": cap, "program": mode}
            said.pop("anonymous_bytes", None)
            row |= {key: round(value, 2) if isinstance(value, float) else value for key, value in said.items()}
            if "tokens_per_s" in said:
                row["peak_bytes"] = group.peak()
            group.remove()
            if mode == "smidgen" and "tokens_per_s" in said:
                # No run can be faster than its disk, nor than one whose weights are all in memory.
                reading = rate / max(said["bytes_read_per_token"], 1)
                bound = min(reading, ours_free["tokens_per_s"])
                row |= {"storage_bytes_per_s": int(rate), "bound_tokens_per_s": round(bound, 2),
                        "of_bound": round(said["tokens_per_s"] / bound, 2)}
            print(json.dumps(row), file=sys.stderr)
            yield row


def main():
    if sys.argv[1] == "--peer":
        return peer(*sys.argv[2:])
    parser = argparse.ArgumentParser()
    parser.add_argument("smidgen")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--shares", type=lambda text: [int(share) for share in text.split(",")], default=[100, 90, 75, 50, 25, 10])
    parser.add_argument("--disks", type=lambda text: text.split(","), default=["local", "50"])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--alone", action="store_true")
    arguments = parser.parse_args()
    arguments.smidgen = os.path.abspath(arguments.smidgen)
    rows_of = alone if arguments.alone else measure
    rows = [row for path in arguments.files for disk in arguments.disks for row in rows_of(arguments, path, disk)]
    command = "python tools/bench_ram.py target/release/smidgen FILE... --alone" if arguments.alone else "cargo xtask bench ram"
    show(command, machine(), rows)


if __name__ == "__main__":
    main()
