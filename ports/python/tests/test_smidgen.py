"""The wheel against the command: the same text, the same bits, and Python's lock is free meanwhile.

SMIDGEN names the command, SMIDGEN_MODEL a model.
"""

import os
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import smidgen

COMMAND = os.environ["SMIDGEN"]
PATH = os.environ["SMIDGEN_MODEL"]
PROMPT = "Once upon a time"


@pytest.fixture
def model() -> smidgen.Model:
    return smidgen.Model(PATH, context=128)


def command(*words: str) -> str:
    return subprocess.run([COMMAND, *words], check=True, capture_output=True, text=True).stdout


def test_text_is_that_of_the_command(model: smidgen.Model) -> None:
    wanted = command("run", PATH, "-c", "128", "-p", PROMPT, "-n", "60", "--temp", "0")
    assert PROMPT + model.generate(PROMPT, 60, temperature=0) == wanted.removesuffix("\n")


def test_drawn_text_is_that_of_the_command(model: smidgen.Model) -> None:
    wanted = command("run", PATH, "-c", "128", "-p", PROMPT, "-n", "40", "--temp", "1.5", "--seed", "7")
    assert PROMPT + model.generate(PROMPT, 40, temperature=1.5, seed=7) == wanted.removesuffix("\n")
    assert model.generate(PROMPT, 40, temperature=1.5, seed=8) != wanted.removesuffix("\n")[len(PROMPT) :]


def test_logits_are_those_of_the_command(model: smidgen.Model, tmp_path: Path) -> None:
    file = tmp_path / "logits.npy"
    command("run", PATH, "-c", "128", "-p", PROMPT, "-n", "1", "--temp", "0", "--logits", str(file))
    logits = model.logits(model.encode(PROMPT))
    assert logits.dtype == np.float32
    assert logits.shape == (len(model.encode(PROMPT)), model.n_vocab)
    assert np.array_equal(logits.view(np.uint32), np.load(file).view(np.uint32))


def test_logits_do_not_depend_on_threads_or_batches() -> None:
    alone, many = (smidgen.Model(PATH, context=64, threads=n) for n in (1, 3))
    ids = alone.encode(PROMPT)
    at_once = many.logits(ids)
    one_by_one = np.concatenate([alone.logits([id]) for id in ids])
    assert at_once.tobytes() == one_by_one.tobytes()


def test_a_stream_has_the_pieces_of_the_text(model: smidgen.Model) -> None:
    pieces = list(model.stream(PROMPT, 60, temperature=0))
    assert len(pieces) > 10
    assert "".join(pieces) == model.generate(PROMPT, 60, temperature=0)
    assert model.generate(model.encode(PROMPT), 60, temperature=0) == "".join(pieces)


def test_a_stream_may_be_left(model: smidgen.Model) -> None:
    stream = model.stream(PROMPT, temperature=0, ignore_eos=True)
    first = next(stream)
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)
    assert model.generate(PROMPT, 20, temperature=0).startswith(first)


def test_positions(model: smidgen.Model) -> None:
    ids = model.encode(PROMPT)
    first = model.logits(ids)
    assert model.position == len(ids)
    model.truncate(2)
    assert model.position == 2
    assert np.array_equal(model.logits(ids[2:]), first[2:])


def test_tokens_and_back(model: smidgen.Model) -> None:
    assert model.decode(model.encode(PROMPT)).strip() == PROMPT
    assert model.encode(PROMPT, special=False) == model.encode(PROMPT)[1:]


def test_the_lock_is_free_while_the_model_works(model: smidgen.Model) -> None:
    done = threading.Event()
    texts: list[str] = []

    def work() -> None:
        texts.append(model.generate(PROMPT, 120, temperature=0, ignore_eos=True))
        done.set()

    def longest_wait() -> float:
        longest, last = 0.0, time.perf_counter()
        while not done.is_set():
            time.sleep(0)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        return longest

    thread = threading.Thread(target=work)
    began = time.perf_counter()
    thread.start()
    longest = longest_wait()
    took = time.perf_counter() - began
    thread.join()
    assert texts and longest < took / 2


def test_two_threads_take_turns(model: smidgen.Model) -> None:
    wanted = model.generate(PROMPT, 30, temperature=0)
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(model.generate(PROMPT, 30, temperature=0))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [wanted] * 4


def test_what_is_wrong_is_said(model: smidgen.Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        smidgen.Model(tmp_path / "absent.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(ValueError, match="broken.gguf"):
        smidgen.Model(tmp_path / "broken.gguf")
    with pytest.raises(ValueError, match="cache"):
        smidgen.Model(PATH, cache="q9")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="vocabulary"):
        model.logits([model.n_vocab])
    with pytest.raises(ValueError, match="context"):
        model.logits([1] * 129)
    with pytest.raises(ValueError, match="temperature"):
        model.generate(PROMPT, temperature=-1)
    with pytest.raises(ValueError, match="no tokens"):
        model.generate([])


def test_it_says_what_it_takes(model: smidgen.Model) -> None:
    assert model.context == 128
    assert model.weight_bytes == Path(PATH).stat().st_size
    assert 0 < model.memory_bytes < smidgen.Model(PATH, context=256).memory_bytes
    assert repr(model) == f'smidgen.Model("{PATH}")'
    assert Path(smidgen.__file__).with_name("py.typed").is_file()
