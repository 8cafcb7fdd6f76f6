"""What guessing and a kept prompt gain with a model that was really trained: the record `guessing`.

    python tools/guessing.py target/release/smidgen ../shared/data [--repetitions 5] [--threads 1]

The model is tales-3m in Q8_0. `--draft ngram` runs beside no guessing, alternately, with all weights in memory and with half of them
streamed (`--ram`). Prompts are beginnings of stories that the model was not trained on ("new"), and 600 characters of these stories with
their beginning behind them ("again"), as when a text is asked for once more with a change. The text must be the same, or the tool
fails. Then the same prompt runs from a `--prompt-cache`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from record import machine, show

BEGINNING = "Once upon a time"
# Pieces of text, and characters of one and of its beginning; new tokens of a run, and its context.
N_STORIES, N_CHARACTERS, N_FIRST, N_NEW, CONTEXT = 6, 600, 120, 100, 512


def stories(data):
    """Pieces of the validation text that begin as stories do, each in one line."""
    text = " ".join((data / "text/tinystories-valid.txt").read_text(errors="replace").split())
    return [BEGINNING + text for text in text.split(BEGINNING)[1:] if len(text) > N_CHARACTERS][:N_STORIES]


def run(smidgen, model, prompt, threads, more):
    words = [smidgen, "run", model, "-p", prompt, "-n", N_NEW, "-c", CONTEXT, "-t", threads, "--temp", 0, "--ignore-eos", "--json", *more]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)


def compare(smidgen, model, prompts, arguments, first, second):
    """Medians over prompts and repetitions of decoded tokens per second without and with, and of guesses that were right."""
    rates, guessed = ([], []), 0
    for prompt in prompts:
        for _ in range(arguments.repetitions):
            runs = [run(smidgen, model, prompt, arguments.threads, more) for more in (first, second)]
            assert runs[0]["text"] == runs[1]["text"], "guessing changed the text"
            for rate, done in zip(rates, runs):
                rate.append(done["timings"]["decode_tokens_per_s"])
        guessed += runs[1]["timings"]["guessed_tokens"]
    plain, with_guesses = (statistics.median(rate) for rate in rates)
    ratio = statistics.median(b / a for a, b in zip(*rates))
    return {
        "plain_tokens_per_s": round(plain, 1),
        "guessing_tokens_per_s": round(with_guesses, 1),
        "ratio": round(ratio, 2),
        "guessed_share": round(guessed / (len(prompts) * N_NEW), 3),
    }


def prompt_cache(smidgen, model, prompt, arguments, folder):
    """Medians of the time to the first token without a kept prompt and with one."""
    path = folder / "prompt.cache"
    keep = ["--prompt-cache", path]
    run(smidgen, model, prompt, arguments.threads, keep)
    times = ([], [])
    for _ in range(arguments.repetitions):
        runs = [run(smidgen, model, prompt, arguments.threads, more) for more in ([], keep)]
        assert runs[0]["text"] == runs[1]["text"], "a kept prompt changed the text"
        for list_, done in zip(times, runs):
            list_.append(done["timings"]["first_token_ms"])
    plain, kept = (statistics.median(list_) for list_ in times)
    return {
        "test": "prompt-cache",
        "prompt_tokens": len(runs[1]["prompt_ids"]),
        "cached_tokens": runs[1]["timings"]["cached_tokens"],
        "plain_first_token_ms": round(plain, 2),
        "kept_first_token_ms": round(kept, 2),
        "ratio": round(plain / kept, 2),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("smidgen")
    parser.add_argument("data", type=Path)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    texts = stories(arguments.data)
    kinds = {"new": [text[:N_FIRST] for text in texts], "again": [f"{text[:N_CHARACTERS]}\n{text[:N_FIRST]}" for text in texts]}
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as directory:
        folder = Path(directory)
        model = folder / "tales-3m.gguf"
        words = [arguments.smidgen, "convert", arguments.data / "hf/tales-3m", model, "--outtype", "q8_0"]
        subprocess.run(words, check=True, capture_output=True)
        needed = run(arguments.smidgen, model, "Once", arguments.threads, [])["planned_bytes"]
        capped = ["--ram", str(needed - model.stat().st_size // 2 + (2 << 20))]
        for held, cap in (("in memory", []), ("half streamed", capped)):
            for kind, prompts in kinds.items():
                row = {"test": "draft", "weights": held, "prompts": kind, "draft": "ngram"}
                row |= compare(arguments.smidgen, model, prompts, arguments, cap, [*cap, "--draft", "ngram"])
                rows.append(row)
                print(row, file=sys.stderr)
        rows.append(prompt_cache(arguments.smidgen, model, kinds["again"][0], arguments, folder))
        print(rows[-1], file=sys.stderr)
    show(" ".join(["python", *sys.argv]), machine(), rows)


if __name__ == "__main__":
    main()
