"""Sweeps: a W&B sweep file, run by Optuna without W&B's server.

`lit_fa.spec.sweep` reads the file as W&B does. `study` draws the next trial and stores how it ended, in a `journal`
that any number of processes share. A trial is an ordinary `lit-fa fit`, run by the workers of `lit_fa.jobs`.
"""
