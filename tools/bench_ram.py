"""Runs smidgen and llama.cpp under the same memory cgroup and on the same disk, and prints the record (`cargo xtask bench ram`).

    python tools/bench_ram.py target/release/smidgen FILE... [--shares 100,90,75,50,25,10] [--disks local,50]
                              [--seconds 15] [--tokens 24] [--minutes 30] [--alone] [--rounds 3]

The files are GGUF files in Q8_0 with the shapes of SmolLM-135M and Qwen3-0.6B; tools/bench_models.py makes them. Needs root, cgroups of version 1 (memory, blkio) and llama-cpp-python. The cap is a share of the file and a fixed part: what
llama.cpp takes beside the file when nothing limits it. Nobody may swap, and page cache counts. A disk of 50 is the local one behind
the kernel's own throttle (blkio.throttle.read_bps_device) at 50 MB/s, a Raspberry Pi's card. Before every run the file is dropped from
the page cache, and llama.cpp enters its cgroup after its libraries are loaded, so that only what the model takes is counted. Both
decode greedily with one thread and exact (F32) caches of 256 tokens, for --seconds or two tokens at least; rates are of the tokens
after the first, and medians of --rounds in which the programs take turns (a run that takes longer than --seconds and five is not repeated).
Every run of smidgen is held against its bound: the disk's rate in reads of 2 MiB, measured before and after the run, and a run without a cap of the same round;
"of_bound" is the median of the runs' shares. Beside what was planned (bytes for each token, tokens per second by `smidgen probe`) stands what was
measured, bytes by the kernel's own count (blkio.throttle.io_service_bytes). A program that ends unexpectedly has a row that says so, and
what does not fit in --minutes has none but is counted. With `--alone` only smidgen runs, at each cap of a share of the file and
16 MiB: at the beginning of its context, when the caches' memory holds weights, and at the end of it ("full_").
"""

import argparse
import ctypes
import json
import math
import mmap
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import machine, peer as peer_version, show

CONTEXT = 256
# What is added to the file's share where llama.cpp does not say what it takes beside the file.
BESIDE = 16 << 20
PROMPT = list(range(1, 9))
# One that leaves no more of the context than the tokens that are measured.
LONG_PROMPT = list(range(1, 225))
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

    def bytes_read(self):
        """What the programs in this group had the disks read."""
        counted = (self.blkio / "blkio.throttle.io_service_bytes").read_text()
        return sum(int(n) for n in re.findall(r"^\S+ Read (\d+)", counted, re.M))

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
    try:
        # One that thrashes may need more for its prompt and the first two tokens than is worth waiting for.
        done = subprocess.run(words, capture_output=True, text=True, timeout=8 * arguments.seconds + 60)
    except subprocess.TimeoutExpired as late:
        return {"ended": f"stopped after {int(late.timeout)} s"}
    return json.loads(done.stdout) if done.returncode == 0 else {"ended": ended(done)}


def ours(group, path, cap, rate, arguments, prompt=PROMPT):
    """One run of as many tokens as there is time for, by what a token reads and the disk's rate."""
    ids = " ".join(map(str, prompt))
    flags = ["-c", str(CONTEXT), "-b", "16", "-t", "1", "--json"] + ([] if cap is None else ["--ram", str(cap)])
    planned = subprocess.run([arguments.smidgen, "plan", path, "--temp", "0", *flags], capture_output=True, text=True)
    if planned.returncode:
        return {"ended": ended(planned)}
    plan = json.loads(planned.stdout)
    most = arguments.seconds * rate / max(plan["streamed_bytes"], 1)
    n_tokens = max(2, int(min(arguments.tokens, most)))
    words = [arguments.smidgen, "run", path, "--ids", ids, "--temp", "0", "--ignore-eos", *flags, "-n", str(n_tokens + 1)]
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = group.run(words)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return {"ended": ended(done)}
    said = json.loads(done.stdout)
    # Loading reads what stays in memory; every batch of the prompt is a pass, and the last token is not passed.
    lines = {line["name"]: line["bytes"] for line in plan["lines"]}
    loaded = sum(lines.get(name, 0) for name in ("weights, kept", "header (in memory)", "vectors"))
    passes = n_tokens + -(-len(prompt) // 16)
    row = {
        "tokens_per_s": said["timings"]["decode_tokens_per_s"], "bytes_read_per_token": said["streamed_bytes_per_token"],
        "tokens": n_tokens, "major_faults_per_token": (used.ru_majflt - started.ru_majflt) / n_tokens,
    }
    if plan["tokens_per_s_at_first"] is not None:
        row["planned_tokens_per_s"] = plan["tokens_per_s_at_first"]
    if said["streamed_bytes"]:
        row["measured_bytes_read_per_token"] = max(0, group.bytes_read() - loaded) // passes
    return row


def ended(done):
    """How a program ended, with the last line that it said, without the folders of this machine."""
    if done.returncode in (-9, 137):
        return "killed"
    said = re.sub(r"/\S*/", "", (done.stderr.strip().splitlines() or [""])[-1])
    return f"status {done.returncode}: {said[-200:]}"


def count(device):
    """Has the kernel count what groups have a disk read: it does from the first limit on, of whichever group."""
    Group(None, device, "1e6").remove()


def storage_rate(path, device, disk):
    """Bytes in a second that the disk gives to whoever asks best, as far as we know: see `read_in_order`."""
    group = Group(None, device, disk)
    done = group.run([sys.executable, __file__, "--read", path])
    group.remove()
    return float(done.stdout)


def read_in_order(path):
    """Reads a file for a second or two, past the page cache, 2 MiB at a time into one large page: as large as any read of smidgen's, and
    nobody looks at what was read. Prints bytes in a second."""
    piece = 2 << 20
    room = mmap.mmap(-1, 2 * piece, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    room.madvise(mmap.MADV_HUGEPAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    begin = -address % piece
    page = memoryview(room)[begin : begin + piece]
    page[:] = bytes(piece)
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    # Whole pieces; of a file that has none, what there is.
    size = max(os.stat(path).st_size // piece, 1) * piece
    at, n_read, began = 0, 0, time.monotonic()
    while time.monotonic() - began < 2:
        n_read += os.preadv(file, [page], at)
        at = (at + piece) % size
    print(n_read / (time.monotonic() - began))


def alone(arguments, path, disk):
    """Rows for one file on one disk, of smidgen only: each cap in turn, and a run without a cap and the disk between them."""
    device, size = os.stat(path).st_dev, os.stat(path).st_size
    kinds = {"": PROMPT, "full_": LONG_PROMPT}
    rates, found = [], {(share, kind): [] for share in [None, *arguments.shares] for kind in kinds}
    for _ in range(arguments.rounds):
        free = {}
        for (share, kind), said in found.items():
            cap = None if share is None else size * share // 100 + BESIDE
            said.append(bounded(path, cap, free.get(kind), (device, disk), arguments, kinds[kind]))
            if share is None:
                free[kind] = said[-1]
            rates += [said[-1]["storage_bytes_per_s"]] if "storage_bytes_per_s" in said[-1] else []
    rate = statistics.median(rates or [0])
    for share in arguments.shares:
        row = {"file": Path(path).name, "disk": disk, "share": share, "storage_bytes_per_s": int(rate)}
        for kind in kinds:
            said, free = found[share, kind], found[None, kind]
            if ends := [one["ended"] for one in said + free if "ended" in one]:
                row[f"{kind}ended"] = ends[0]
                continue
            row |= {
                f"{kind}tokens_per_s": round(middle(said, "tokens_per_s"), 2),
                f"{kind}bytes_read_per_token": said[0]["bytes_read_per_token"],
                f"{kind}measured_bytes_read_per_token": middle(said, "measured_bytes_read_per_token"),
                f"{kind}unbound_tokens_per_s": round(middle(free, "tokens_per_s"), 2),
                f"{kind}bound_tokens_per_s": round(middle(said, "bound_tokens_per_s"), 2),
                f"{kind}of_bound": round(middle(said, "of_bound"), 2),
            }
        yield row | {"planned_tokens_per_s": round(middle(found[share, ""], "planned_tokens_per_s") or 0, 2)}


def middle(said, key):
    """The median of what some runs say, if they do."""
    values = [one[key] for one in said if key in one]
    return statistics.median(values) if values else None


def timed(path, cap, place, run):
    """What `run` says in a group of its own, with how long it took and its peak; the file is not in the page cache before."""
    group = Group(cap, *place)
    forget(path)
    began = time.monotonic()
    said = run(group)
    said |= {"seconds": time.monotonic() - began, "peak_bytes": group.peak()}
    group.remove()
    return said


def bounded(path, cap, free, place, arguments, prompt=PROMPT):
    """One run of smidgen, held against its bound: the disk's rate, measured before and after it, and the run without a cap, `free`."""
    # Without a cap nothing is read for a token.
    rate = storage_rate(path, *place) if cap else math.inf
    said = timed(path, cap, place, lambda group: ours(group, path, cap, rate, arguments, prompt))
    if free and "tokens_per_s" in said and "tokens_per_s" in free:
        rate = (rate + storage_rate(path, *place)) / 2
        # No run can be faster than its disk, nor than one whose weights are all in memory.
        bound = min(rate / max(said["bytes_read_per_token"], 1), free["tokens_per_s"])
        said |= {"storage_bytes_per_s": int(rate), "bound_tokens_per_s": bound, "of_bound": said["tokens_per_s"] / bound}
    return said


def capped(mode, path, cap, place, arguments):
    """One run of a program under a cap; of smidgen after one without."""
    if mode == "smidgen":
        return bounded(path, cap, bounded(path, None, None, (place[0], "local"), arguments), place, arguments)
    return timed(path, cap, place, lambda group: theirs(group, MODES[mode][0], path, arguments))


def measure(arguments, path, disk):
    """Rows for one file on one disk: medians of some rounds, in which the programs take turns; what takes long runs once."""
    place = os.stat(path).st_dev, disk
    group = Group(None, place[0], "local")
    free = theirs(group, "mapped", path, arguments)
    group.remove()
    if "ended" in free:
        yield {"file": Path(path).name, "disk": disk, "program": "llama.cpp, mapped, without a cap", "ended": free["ended"]}
    fixed = free.get("anonymous_bytes", BESIDE - (4 << 20)) + (4 << 20)
    for share in arguments.shares:
        cap = os.stat(path).st_size * share // 100 + fixed
        found, over = {mode: [] for mode in MODES}, set()
        for _ in range(arguments.rounds):
            for mode in [mode for mode in MODES if mode not in over]:
                found[mode].append(capped(mode, path, cap, place, arguments))
                if "ended" in found[mode][-1] or found[mode][-1]["seconds"] > arguments.seconds + 5:
                    over.add(mode)
        for mode, said in found.items():
            row = {"file": Path(path).name, "disk": disk, "share": share, "cap_bytes": cap, "program": mode}
            if ends := [one["ended"] for one in said if "ended" in one]:
                yield row | {"ended": ends[0]}
                continue
            keys = [key for key in said[0] if key not in ("anonymous_bytes", "seconds")]
            row |= {key: number(middle(said, key)) for key in keys}
            # The most, not the middle: a cap is kept or it is not.
            row["peak_bytes"] = max(one["peak_bytes"] for one in said)
            rates = [number(one["tokens_per_s"]) for one in said]
            yield row | {"least": min(rates), "most": max(rates), "runs": len(said)}


def number(value):
    """A whole number, or one of two places."""
    return round(value, 2) if value % 1 else int(value)


def kept(arguments, rows_of):
    """The rows of every file and disk; those that were made before something failed or time was up stay."""
    end = time.monotonic() + 60 * arguments.minutes
    print(f"at most about {arguments.minutes:g} minutes", file=sys.stderr)
    rows = []
    for path in arguments.files:
        for disk in arguments.disks:
            where = {"file": Path(path).name, "disk": disk}
            if time.monotonic() > end:
                rows.append(where | {"ended": "not begun: no time was left"})
                continue
            try:
                for row in rows_of(arguments, path, disk):
                    print(json.dumps(row), file=sys.stderr)
                    rows.append(row)
                    if time.monotonic() > end:
                        rows.append(where | {"ended": "not finished: no time was left"})
                        break
            except (OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
                rows.append(where | {"ended": f"{type(error).__name__}: {error}"})
    return rows


def main():
    if sys.argv[1] == "--peer":
        return peer(*sys.argv[2:])
    if sys.argv[1] == "--read":
        return read_in_order(sys.argv[2])
    parser = argparse.ArgumentParser()
    parser.add_argument("smidgen")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--shares", type=lambda text: [int(share) for share in text.split(",")], default=[100, 90, 75, 50, 25, 10])
    parser.add_argument("--disks", type=lambda text: text.split(","), default=["local", "50"])
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true")
    arguments = parser.parse_args()
    arguments.smidgen = os.path.abspath(arguments.smidgen)
    count(os.stat(arguments.files[0]).st_dev)
    with tempfile.TemporaryDirectory() as cache:
        # Plans are made by the rates of this disk and this processor now, and the user's own stay as they are.
        os.environ["SMIDGEN_CACHE"] = cache
        subprocess.run([arguments.smidgen, "probe", arguments.files[0], "-t", "1"], check=True, capture_output=True)
        rows = kept(arguments, alone if arguments.alone else measure)
    if arguments.alone:
        options = f"--alone --disks {','.join(arguments.disks)} --seconds {arguments.seconds:g} --rounds {arguments.rounds}"
        show(f"python tools/bench_ram.py target/release/smidgen FILE... {options}", machine(), rows)
        return
    try:
        beside = peer_version()
    except ImportError:
        # The rows of the peer say that it did not begin; the others are worth keeping.
        beside = "no llama.cpp"
    show("cargo xtask bench ram", f"{machine()}; {beside}", rows)


if __name__ == "__main__":
    main()
