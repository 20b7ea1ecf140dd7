"""Synthesis: requests to LLMs from the labels' descriptions, and rows from their replies."""
