"""Several runs in one process, which take turns, and whose training steps between two observed ones are one program.

Every run keeps its own trainer, module, data, callbacks, checkpoint and record: it is the ordinary run. Only steps
that nothing observes are taken for all runs together, by `lit_fa.written`, whose numbers are those of each run alone,
bit for bit. A run that cannot take part trains alone, in its turn.
"""

from lit_fa.packs.lanes import Lane, Pack, current

__all__ = ["Lane", "Pack", "current"]
