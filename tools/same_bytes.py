"""The best file of ours beside llama.cpp's of the same size: `quantize --size` against its mixtures below four bits.

    /tmp/peer/bin/python tools/same_bytes.py target/release/smidgen ../shared/data WIDE > bench/record/$(date -u +%F)-same-bytes.json

Needs what `tools/quality_against_llama_cpp.py` needs, and judges as it does: WIDE is the model whose rows llama.cpp's formats take, and
both programs read the same text. Our search may take as many bytes as llama.cpp's file has, its vocabulary included.
"""

import platform
import sys
import tempfile
from pathlib import Path

import llama_cpp
from quality_against_llama_cpp import by_llama_cpp, measured, prepare, run
from record import show

MIXTURES = ["IQ2_XXS", "IQ2_S", "IQ3_XXS", "IQ3_S"]


def main():
    program, data, wide = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]).absolute()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        base, imatrix, texts = prepare(program, data, wide, None, "wide", Path(folder))
        out = Path(folder) / "out.gguf"
        for kind in MIXTURES:
            by_llama_cpp(base, kind, imatrix, out)
            theirs = measured(program, out, base, texts[1])
            run(program, "quantize", base, out, "--size", theirs["bytes"], "-f", texts[0], "--imatrix", imatrix)
            ours = measured(program, out, base, texts[1])
            row = {"model": "wide", "llama_cpp_type": kind}
            for figure in theirs:
                row |= {f"llama_cpp_{figure}": theirs[figure], f"smidgen_{figure}": ours[figure]}
            rows.append(row | {"kl_ratio": round(ours["kl_mean"] / theirs["kl_mean"], 3)})
            print(rows[-1], file=sys.stderr, flush=True)
    command = "python tools/same_bytes.py target/release/smidgen ../shared/data wide"
    show(command, f"{platform.machine()}, {platform.system()} {platform.release()}, llama-cpp-python {llama_cpp.__version__}", rows)


if __name__ == "__main__":
    main()
