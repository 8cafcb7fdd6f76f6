"""Language models in a smidgen of RAM."""

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Model", "Stream", "__version__"]

__version__: str

@final
class Model:
    """A model, open and ready: a GGUF file, a Hugging Face directory or a llama2.c checkpoint.

    It lives on a thread of its own; every method waits for that thread without Python's lock. What it keeps in memory beside the
    weights is ``memory_bytes``, taken when it is opened and never more. ``ValueError`` says what is wrong with a file, a token or
    an argument, ``OSError`` what the system could not do.
    """

    def __new__(
        cls,
        path: str | PathLike[str],
        *,
        context: int | None = None,
        threads: int | None = None,
        cache: Literal["f32", "f16", "q8_0", "q4_0"] = "f32",
    ) -> Model:
        """Opens the model at ``path``.

        ``context`` is how many tokens there is room for: what the model was trained with up to 2048, or with 0 all of that.
        ``threads`` share the work: one for each 16 MiB of weights, and at most one for each core. ``cache`` is the type that keys
        and values are kept in. Neither threads nor the processor change a bit of a logit; the type of the cache does.
        """

    @property
    def n_vocab(self) -> int:
        """How many tokens the vocabulary has."""
    @property
    def context(self) -> int:
        """How many tokens there is room for."""
    @property
    def memory_bytes(self) -> int:
        """Bytes of the buffers."""
    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, mapped from the file where that is possible."""
    @property
    def position(self) -> int:
        """How many tokens have been run."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The tokens of ``text``, with ``special`` those that the model wants around a text."""
    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``."""
    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Runs ``ids`` at the next positions; the logits after each of them, as (len(ids), n_vocab)."""
    def truncate(self, n: int = 0) -> None:
        """Forgets all but the first ``n`` tokens."""
    def generate(
        self,
        prompt: str | Sequence[int],
        n: int | None = None,
        *,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        repeat_last_n: int = 64,
        seed: int = 0,
        ignore_eos: bool = False,
    ) -> str:
        """What follows ``prompt``: at most ``n`` tokens, or until the model ends or the context is full.

        What was run before is forgotten. ``temperature=0`` takes the likeliest token always; the same ``seed`` gives the same text
        on every machine. Ctrl-C ends it.
        """
    def stream(
        self,
        prompt: str | Sequence[int],
        n: int | None = None,
        *,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        repeat_last_n: int = 64,
        seed: int = 0,
        ignore_eos: bool = False,
    ) -> Stream:
        """As ``generate``, piece by piece, each of whole characters. The model writes ahead until it is done or the stream is closed."""

@final
class Stream(Iterator[str]):
    """The pieces of a text, as the model makes them."""

    def __iter__(self) -> Stream: ...
    def __next__(self) -> str: ...
    def close(self) -> None:
        """Ends it: the model stops after the token that it is at."""
