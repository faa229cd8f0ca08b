"""First allocations: words with similar contexts share rows and columns (no Keras needed)."""

from keras_lightrnn.clustering.cooccurrence import cluster_words, compute_word_features
from keras_lightrnn.clustering.two_way import cluster_features

__all__ = ["cluster_features", "cluster_words", "compute_word_features"]
