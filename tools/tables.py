"""Writes the tables of the documents anew from a record (`cargo xtask bench` does so with each record that it makes).

    python tools/tables.py bench/record/2026-11-30-ram.json

A table stands between `<!-- figures: bench/record/DATE-WHAT.json -->` and `<!-- end of figures -->`. Those whose WHAT is that of the
record get its rows and name it; their heads, and every other line, stay as they are.
"""

import json
import re
import sys
from pathlib import Path

BLOCK = re.compile(r"<!-- figures: bench/record/\d{4}-\d\d-\d\d-(?P<what>[\w-]+)\.json -->\n(?P<head>\|.*\n\|[-|: ]+\|\n)(?:\|.*\n)*")
TESTS = ["pp64", "pp512", "tg128", "tg128@512"]
SHAPES = {"stories260K": "stories260K", "s15M": "the 15M shape", "gpt2-124": "GPT-2 124M", "smol135": "SmolLM-135M", "qwen3-0.6B": "Qwen3-0.6B"}


def stem(row):
    return row["file"].removesuffix(".gguf")


def peers(rows):
    """A line for each file and number of threads, with both rates and their ratio for each test."""
    lines = {}
    for row in rows:
        cell = f"{row['smidgen_tokens_per_s']:.0f} : {row['llama_cpp_tokens_per_s']:.0f} = {row['ratio']}"
        lines.setdefault((stem(row), row["threads"]), {})[row["test"]] = cell
    return [[*key, *(tests.get(test, "") for test in TESTS)] for key, tests in lines.items()]


def said(row, key):
    """A figure of a row, or how the program ended instead."""
    return "" if row is None else row.get(key, row.get("full_ended" if key.startswith("full_") else "ended", ""))


def ram(rows):
    """A line for each disk and share, with both programs' rates of each file."""
    files = list(dict.fromkeys(row["file"] for row in rows))
    found = {(row["disk"], row.get("share"), row["file"], row.get("program")): row for row in rows}
    places = dict.fromkeys((row["disk"], row["share"]) for row in rows if "share" in row)
    programs = ["smidgen", "llama.cpp, mapped"]
    cells = lambda disk, share: [said(found.get((disk, share, file, program)), "tokens_per_s") for file in files for program in programs]
    name = lambda disk: disk if disk == "local" else f"{disk} MB/s"
    return [[f"{share} %, {name(disk)}", *cells(disk, share)] for disk, share in places]


def ram_bound(rows):
    files = list(dict.fromkeys(row["file"] for row in rows))
    found = {(row.get("share"), row["file"]): row for row in rows}
    keys = ["tokens_per_s", "of_bound", "full_tokens_per_s", "full_of_bound"]
    shares = dict.fromkeys(row["share"] for row in rows if "share" in row)
    return [[f"{share} %", *(said(found.get((share, file)), key) for file in files for key in keys)] for share in shares]


def ram_floor(rows):
    def name(row):
        shape, kind = stem(row).rsplit("-", 1)
        return f"{SHAPES[shape]} in `{kind}`"

    return [[name(row), row.get("file_bytes", ""), row["ram_bytes"], said(row, "tokens_per_s")] for row in rows]


def start(rows):
    keys = ["smidgen_first_byte_ms", "llama_cpp_first_byte_ms", "llama_cpp_lean_first_byte_ms", "smidgen_peak_bytes", "llama_cpp_peak_bytes"]
    return [[stem(row), *(row[key] for key in keys)] for row in rows if row["test"] == "start"]


def busy(rows):
    keys = ["loops", "smidgen_ms", "smidgen_times_idle", "llama_cpp_ms", "llama_cpp_times_idle"]
    return [[stem(row), *(row[key] for key in keys)] for row in rows if row["test"] == "busy"]


def llama2c(rows):
    keys = ["program", "smidgen_tokens_per_s", "llama2_c_tokens_per_s", "ratio"]
    return [[f"`{row['file']}`", *(row[key] for key in keys)] for row in rows]


def ops(rows):
    keys = ["products_gb_per_s", "limit_gb_per_s", "products_percent", "token_percent"]
    return [[stem(row), row["threads"], *(row[key] for key in keys)] for row in rows]


def memory(rows):
    return [[row["run"], row["planned_bytes"], row["peak_bytes"]] for row in rows if "run" in row]


BOARDS = {
    "stm32f405": "STM32F405, Cortex-M4F", "thumbv7em": "the same, by its numbers", "thumbv6m": "MPS2, as an ARMv6-M by its numbers",
    "virt-imc": "RV32IMC", "virt-imac": "RV32IMAC", "lm3s6965": "LM3S6965, Cortex-M3", "an386": "MPS2, Cortex-M4F",
    "an500": "MPS2, Cortex-M7", "an505": "MPS2, Cortex-M33", "microbit": "micro:bit, Cortex-M0, in C", "atmega1284p": "ATmega1284P, in C",
}


def boards(rows):
    keys = ["context_tokens", "cache", "flash_bytes", "static_bytes", "stack_bytes"]
    counted = lambda row: row["instructions_per_token"] or "not counted"
    return [[BOARDS[row["board"]], f"`{row['model']}`", *(row[key] for key in keys), counted(row)] for row in rows if row.get("board") in BOARDS]


def power_macintosh(rows):
    keys = ["planned_bytes", "used_bytes", "instructions_per_token"]
    return [[f"`{row['model']}`", *(row[key] for key in keys)] for row in rows if row.get("board") == "g3beige"]


def static_files(rows):
    return [[row["target"], row["file_bytes"]] for row in rows if "target" in row]


# By what a record is of and what its table's head begins with.
TABLES = {
    ("boards", "board"): boards, ("boards", "model"): power_macintosh, ("boards", "target"): static_files, ("static-files", "target"): static_files,
    ("ram", "room for, disk"): ram, ("ram-bound", "room for"): ram_bound, ("ram-floor", "model"): ram_floor,
    ("start", "file"): start, ("start", "busy with"): busy, ("memory", "run"): memory,
    ("ops", "file"): ops, ("llama2c", "file"): llama2c,
}


def rewrite(text, path):
    """The document `text` with the tables of the record at `path` written anew."""
    what = path.stem.split("-", 3)[3]
    rows = json.loads(path.read_text())["results"]

    def block(found):
        first = found["head"].split("|")[1].strip()
        table = peers if what.startswith("peers") else TABLES.get((what, first))
        if found["what"] != what or table is None:
            return found[0]
        lines = "".join("| " + " | ".join(map(str, row)) + " |\n" for row in table(rows))
        # A record of some parts only has nothing to say of the others' tables.
        return found[0] if not lines else f"<!-- figures: bench/record/{path.name} -->\n{found['head']}{lines}"

    return BLOCK.sub(block, text)


def main():
    record = Path(sys.argv[1])
    for document in (Path("README.md"), Path("docs/ports.md")):
        old = document.read_text()
        new = rewrite(old, record)
        if new != old:
            document.write_text(new)
            print(f"{document}: written anew", file=sys.stderr)


if __name__ == "__main__":
    main()
