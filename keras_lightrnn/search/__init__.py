"""Exact search, sampling and decoding over rows and columns."""
