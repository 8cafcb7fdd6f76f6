"""Measures what each type of key-value cache costs a model: divergence from the same model with an exact cache, and bytes.

    cargo build --release
    python3 tools/kv_types.py target/release/smidgen ../shared/data/text/tinystories-valid.txt MODEL... \
        > bench/record/$(date -u +%F)-kv-types.json
"""

import argparse
import json
import os
import platform
import subprocess
import sys

from record import show

EXACT = "f32"
TYPES = ["f16", "q8_0", "q4_0"]
# Keys alone, values alone, both, and the mixture that people use: keys are the more sensitive of the two.
PAIRS = [pair for kind in TYPES for pair in [(kind, EXACT), (EXACT, kind), (kind, kind)]] + [("q8_0", "q4_0")]


def json_of(words):
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def bytes_per_position(smidgen, model, flags):
    plan = json_of([smidgen, "plan", model, "-c", "512", "--json"] + flags)
    return sum(line["bytes"] for line in plan["lines"] if line["name"] in ("keys", "values")) / plan["context_tokens"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("smidgen")
    parser.add_argument("text")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--chunks", type=int, default=20)
    arguments = parser.parse_args()
    results = []
    for model in arguments.models:
        for cache_k, cache_v in PAIRS:
            flags = ["--ctk", cache_k, "--ctv", cache_v]
            words = [arguments.smidgen, "eval", model, "--against", model, "-f", arguments.text, "--json"]
            report = json_of(words + ["--chunks", str(arguments.chunks)] + flags)
            name = os.path.splitext(os.path.basename(os.path.normpath(model)))[0]
            result = {"model": name, "cache_k": cache_k, "cache_v": cache_v}
            result["bytes_per_position"] = round(bytes_per_position(arguments.smidgen, model, flags))
            for figure in ["kl_mean", "kl_p99", "kl_max", "same_top"]:
                result[figure] = float(f"{report[figure]:.4g}")
            result["perplexity_ratio"] = float(f"{report['perplexity'] / report['base_perplexity']:.6g}")
            result["tokens"] = report["tokens"]
            results.append(result)
            print(json.dumps(result), file=sys.stderr)
    command = (
        "python3 tools/kv_types.py target/release/smidgen ../shared/data/text/tinystories-valid.txt"
        f" ../shared/data/gguf/stories260K-v1-f32.gguf ../shared/data/hf/tales-3m --chunks {arguments.chunks}"
    )
    show(command, f"{platform.machine()}, one core", results)


if __name__ == "__main__":
    main()
