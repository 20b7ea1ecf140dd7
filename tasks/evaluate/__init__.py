"""Scores on the sealed test set, with intervals, and those of baselines."""
