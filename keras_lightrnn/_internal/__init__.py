"""Helpers shared by the whole package; none of them is public."""
