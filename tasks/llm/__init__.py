"""Talking to language models: any OpenAI-compatible endpoint, or a small one on this machine."""
