"""Checkpoints: written whole, read without running what is in them, and traced to the run they came from."""
