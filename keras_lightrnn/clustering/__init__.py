"""Allocations by clustering: similar words share rows and columns.

This package needs NumPy, SciPy and Numba only. Numba is imported by the first clustering.
"""

from keras_lightrnn.clustering.cooccurrence import cluster_words, compute_word_features
from keras_lightrnn.clustering.two_way import cluster_features
from keras_lightrnn.clustering.vectors import compute_unexplained_share
from keras_lightrnn.table.allocation import register_builder

__all__ = [
    "cluster_features",
    "cluster_words",
    "compute_unexplained_share",
    "compute_word_features",
]

register_builder("cooccurrence", cluster_words)
register_builder("features", cluster_features)
