"""Batch generation: many prompts and seeds through a pipeline, resumable, by one worker or many (docs/generate.md)."""
