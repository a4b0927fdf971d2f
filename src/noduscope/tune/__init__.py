"""Searching for better settings: the declared space, the study, its results, and what is scored."""
