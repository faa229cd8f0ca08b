"""The table of words: which cell each word lives in."""
