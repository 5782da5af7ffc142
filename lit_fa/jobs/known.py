"""Imported by the server from which workers are forked, after the runner's module: each worker would compute it anew.

Commit and hash of the sources are those of the code that the server has just imported, which its workers run.
"""

from lit_fa.provenance import our_code, sources

our_code(), sources()
