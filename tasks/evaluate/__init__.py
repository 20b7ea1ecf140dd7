"""Scores on the sealed test set, with intervals, beside baselines."""
