"""Checkpoints: written atomically, read without executing code, and compared with the run that resumes from them."""
