"""Weights on disk: files, key layouts, adapters, prompts."""
