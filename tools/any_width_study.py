"""Measures what each choice in a low-bit format for rows of any length buys, on three real models.

    pip install -r tools/any_width/requirements.txt
    cargo build -p smidgen
    OMP_NUM_THREADS=1 python tools/any_width_study.py --data ../shared/data --program target/debug/smidgen \\
        --record bench/record/$(date -u +%F)-any-width-study.json --plot docs/any-width-study.svg
    python tools/any_width_study.py --record bench/record/FILE.json --plot docs/any-width-study.svg \\
        --page docs/any-width-study.md

The first form measures (15 minutes of two cores); the second draws and fills the tables of the page from a record.
Every matrix is replaced by what its quantized form stands for, the embedding too, and the model runs in f32; the figure
is the mean KL divergence from the f32 model in nats, on stories that the calibration has not seen.
"""

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict, astuple, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from any_width import page
from record import make_record

SHARES = 4  # Parts of the work on each model, so that two processes end at about the same time.
EMBEDDING = "lm_head"  # One table is embedding and output in all three models.


@dataclass(frozen=True)
class Scheme:
    """One way to store a matrix; the defaults are what was chosen."""

    bits: int
    code: str = "trellis6"
    block: int | None = 64  # Weights of one scale; None: the whole row.
    scale: str = "e5m3"
    tensor: bool = False  # One scale for all rows.
    minimum: bool = False
    importance: bool = False
    feedback: str | None = None  # "blocks": from block to block only; "paths": inside of a block as well.
    rotate: bool = False
    embedding: int | None = None  # Bits of the embedding where they differ.
    tied: str = "both"  # The embedding's moments: of the "output" side only, or of "both" sides.

    def with_scale(self, scale):
        return replace(self, scale=scale)


def questions():
    """The schemes that answer each question."""
    few, codes = (2, 3, 4), ("uniform", "lloyd", "trellis6")
    asked = {"granularity": [], "minimum": []}
    for code, bits in (("uniform", 4), ("trellis6", 2), ("trellis6", 4)):
        asked["granularity"] += [
            Scheme(bits, code, None, "f32", tensor=True), Scheme(bits, code, None, "f16"),
            *(Scheme(bits, code, size) for size in (128, 64, 32, 16)),
        ]  # fmt: skip
    kinds = ("f32", "f16", "e4m3+tensor", "e5m3", "int6+row", "int4+row", "int4+row8")
    asked["scale"] = [Scheme(bits, scale=kind) for bits in (2, 4) for kind in kinds]
    asked["scale"] += [Scheme(4, scale="e4m4"), Scheme(4, feedback="paths"), Scheme(4, scale="f16", feedback="paths")]
    for code, bits in [(code, bits) for code in codes[:2] for bits in few] + [("trellis6", 2)]:
        asked["minimum"] += [Scheme(bits, code, 32), Scheme(bits, code, 32, minimum=True)]
    asked["minimum"] += [Scheme(bits, "uniform", 32, "int6+row", minimum=True) for bits in few]
    asked["code"] = [Scheme(bits, code) for bits in (*few, 5) for code in codes]
    asked["code"] += [Scheme(2, "trellis8"), Scheme(2, "iq2", 32)]
    asked["code"] += [Scheme(6, "uniform"), Scheme(6, "lloyd"), Scheme(8, "uniform")]
    asked["importance"] = [Scheme(4, "uniform"), Scheme(4, "uniform", importance=True)]
    asked["importance"] += [Scheme(bits, importance=importance) for bits in few for importance in (False, True)]
    asked["feedback"] = [Scheme(bits, "uniform", feedback=feedback) for bits in few for feedback in (None, "paths")]
    asked["feedback"] += [Scheme(bits, feedback=feedback) for bits in few for feedback in (None, "blocks", "paths")]
    asked["feedback"] += [Scheme(bits, feedback="paths") for bits in (5, 6, 8)]
    asked["feedback"] += [Scheme(bits, "trellis6", 32, feedback="paths") for bits in few]
    asked["rotation"] = [Scheme(4, "uniform"), Scheme(4, "uniform", rotate=True)] + [
        Scheme(bits, feedback=feedback, rotate=rotate)
        for bits in few[::2] for feedback in (None, "paths") for rotate in (False, True)
    ]  # fmt: skip
    asked["embedding"] = []
    for bits in (2, 4):
        asked["embedding"].append(Scheme(bits, feedback="paths", tied="output"))
        asked["embedding"] += [
            Scheme(bits, feedback="paths", embedding=own if own != bits else None) for own in (2, 3, 4, 6, 8)
        ]
    return asked


def rotation(columns):
    """A random orthogonal matrix, the same for every matrix of that width."""
    q, r = np.linalg.qr(np.random.default_rng(columns).normal(size=(columns, columns)))
    return q * np.sign(np.diag(r))


def quantized(matrix, moment, scheme):
    """What `matrix` (rows, columns) becomes; `moment` (columns, columns) is the mean of x x^T of its input x."""
    from any_width import feedback, scales

    if scheme.rotate:
        turn = rotation(matrix.shape[1])
        turned = (matrix @ turn).astype(np.float32)
        back = quantized(turned, turn.T @ moment @ turn, replace(scheme, rotate=False)) @ turn.T
        return back.astype(np.float32)
    if scheme.feedback:
        return feedback.fit_matrix(matrix, moment, scheme)
    importance = np.diag(moment) + 1e-9 if scheme.importance else np.ones(matrix.shape[1])
    return scales.fit_matrix(matrix, importance.astype(np.float32), scheme)


def measure(subject, scheme):
    """One row of the record: the true bits of a weight, the error of the weights, and what it does to the output."""
    from any_width import scales

    start, weights, bits, errors = time.time(), {}, 0, []
    for name, matrix in subject.weights.items():
        of = replace(scheme, bits=scheme.embedding) if scheme.embedding and name == EMBEDDING else scheme
        moment = subject.moments[name]
        if name == EMBEDDING and scheme.tied == "both":
            moment = moment + np.mean(np.diag(moment)) * np.eye(len(moment))
        weights[name] = quantized(matrix, moment, of)
        bits += len(matrix) * scales.row_bits(matrix.shape[1], of) + scales.BITS[of.scale][2]
        errors.append(((weights[name] - matrix) ** 2).sum() / (matrix**2).sum())
    n_weights = sum(matrix.size for matrix in subject.weights.values())
    kl, deviation = subject.divergence(weights)
    return {
        "model": subject.name, "n_weights": n_weights, **asdict(scheme), "bits_per_weight": round(bits / n_weights, 4),
        "relative_error": round(float(np.mean(errors)), 7), "kl_mean": round(kl, 7),
        "kl_deviation": round(deviation, 7), "seconds": round(time.time() - start, 2),
    }  # fmt: skip


def measure_share(job):
    """A share of the schemes on one model, each noted at once, so that a study that was stopped goes on."""
    import torch

    from any_width.models import Subject

    name, data, program, schemes, notes = job
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    known = {tuple(row[key] for key in asdict(schemes[0])): row for row in rows}
    missing = [scheme for scheme in schemes if astuple(scheme) not in known]
    subject = Subject(name, data, program) if missing else None
    with open(notes, "a") as file:
        for index, scheme in enumerate(missing):
            row = known[astuple(scheme)] = measure(subject, scheme)
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"{name}: {index + 1} of {len(missing)}, {row['seconds']} s", file=sys.stderr, flush=True)
    return [known[astuple(scheme)] for scheme in schemes]


def study(data, program, n_processes, notes):
    """The record of the whole study."""
    from any_width.models import MODELS

    asked = questions()
    schemes = list(dict.fromkeys(scheme for rows in asked.values() for scheme in rows))
    jobs = [
        (name, data, program, schemes[share::SHARES], notes.with_suffix(f".{name}.{share}.part"))
        for name in reversed(MODELS) for share in range(SHARES)
    ]  # fmt: skip
    with get_context("spawn").Pool(n_processes) as pool:
        rows = [row for rows in pool.map(measure_share, jobs, chunksize=1) for row in rows]
    measured = {(row["model"], *(row[key] for key in asdict(schemes[0]))): row for row in rows}
    results = []
    for scheme in schemes:
        rows = [measured[name, *astuple(scheme)] for name in MODELS]
        n_weights = sum(row["n_weights"] for row in rows)
        results.append({
            "questions": [question for question, asked_of in asked.items() if scheme in asked_of], **asdict(scheme),
            "bits_per_weight": round(sum(row["bits_per_weight"] * row["n_weights"] for row in rows) / n_weights, 4),
            "kl_geometric_mean": round(float(np.exp(np.mean([np.log(row["kl_mean"]) for row in rows]))), 7),
            "models": [{key: row[key] for key in page.MODEL_FIELDS} for row in rows],
        })  # fmt: skip
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    command = (
        "OMP_NUM_THREADS=1 python tools/any_width_study.py --data ../shared/data --program "
        f"target/debug/smidgen --processes {n_processes}"
    )
    machine = f"{cpu}, {os.cpu_count()} cores, {memory} GiB, {platform.system()} {platform.release()}"
    return make_record(command, machine, results)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the shared data directory; without it --record is read")
    parser.add_argument("--program", help="the smidgen program, which makes the tokens")
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--page", type=Path, help="the page whose tables are filled")
    parser.add_argument("--processes", type=int, default=2)
    words = parser.parse_args()
    if words.data:
        if not words.program:
            parser.error("--data needs --program")
        record = study(words.data, words.program, words.processes, words.record)
        words.record.write_text(json.dumps(record, indent=1) + "\n")
        for part in words.record.parent.glob(f"{words.record.stem}.*.part"):
            part.unlink()
    record = json.loads(words.record.read_text())
    if words.plot:
        page.draw(record, words.plot)
    if words.page:
        page.fill(record, words.page)


if __name__ == "__main__":
    main()
