"""Layers that replace `Embedding` and `Dense(V, "softmax")` over large vocabularies."""

from keras_lightrnn.layers.row_reader import GatedRowReader
from keras_lightrnn.layers.target_ranks import TargetRanks
from keras_lightrnn.layers.top_words import TopWords
from keras_lightrnn.layers.two_component_embedding import TwoComponentEmbedding
from keras_lightrnn.layers.two_component_softmax import TwoComponentSoftmax
from keras_lightrnn.layers.word_vectors import WordVectors

__all__ = [
    "GatedRowReader",
    "TargetRanks",
    "TopWords",
    "TwoComponentEmbedding",
    "TwoComponentSoftmax",
    "WordVectors",
]
