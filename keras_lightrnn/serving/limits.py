"""Limits on the requests of an exported model."""

from __future__ import annotations

import dataclasses

from keras_lightrnn._internal.checks import check_size

_INT32_MAX = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class ServingLimits:
    """The largest requests that an exported SavedModel answers.

    The SavedModel checks every request against these limits before it computes anything, and
    answers a larger one with an `INVALID_ARGUMENT` error. Without limits, one small request
    (`length=10**9`) could take all memory of a server.

    Args:
        max_batch_size: Integer, texts in a request. Defaults to 256.
        max_words_per_text: Integer, words in a text. `score_ids` takes two more ids, the end
            words before and after the text. Defaults to 2,048.
        max_bytes_per_text: Integer, bytes of a text in UTF-8, white space included. Defaults to
            65,536.
        max_k: Integer, words that `next_words` returns for a text. Defaults to 1,000.
        max_length: Integer, words that `generate` adds to a text. Defaults to 256.

    Raises:
        ValueError: if a limit is not an integer in `[1, 2**31 - 1]`.

    Example:

    >>> ServingLimits(max_k=10).max_k
    10
    """

    max_batch_size: int = 256
    max_words_per_text: int = 2_048
    max_bytes_per_text: int = 65_536
    max_k: int = 1_000
    max_length: int = 256

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if check_size(name, value) > _INT32_MAX:
                raise ValueError(f"`{name}` must fit into int32. Received: {name}={value}.")
