"""Text, vocabularies, streams of word ids, and windows of them."""

from keras_lightrnn.data.text import read_lines
from keras_lightrnn.data.tfds_text import from_tfds, tfds_lines
from keras_lightrnn.data.token_shards import TokenShards
from keras_lightrnn.data.vocabulary import Vocabulary
from keras_lightrnn.data.windows import contiguous_windows, shuffled_windows, token_windows

__all__ = [
    "TokenShards",
    "Vocabulary",
    "contiguous_windows",
    "from_tfds",
    "read_lines",
    "shuffled_windows",
    "tfds_lines",
    "token_windows",
]
