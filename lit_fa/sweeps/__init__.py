"""Sweeps: a W&B sweep file, run by W&B's own agents or by Optuna without a network.

The file is read as W&B reads it (`schema`, `distributions`); `trials` draws a study's next trial and hears how it
ended, so that any number of processes share one SQLite study and a killed one loses nothing. A trial is an ordinary
`lit-fa fit`, trained by the workers that train the cells of tables (`lit_fa.jobs.pool`, `lit_fa.trial`).
"""
