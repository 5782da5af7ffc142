"""Gradients as explicit products of matrices, without autograd, for chains of dense layers.

The parameters of k networks of one architecture are stacked, (k, ...): lanes. A lane's gradient equals the gradient of
its learner's scalar bit for bit, in float32 and float64 on a CPU with one thread, whatever the number of lanes: a
batched product of matrices is rounded as a single one, and `aten` operations are those that autograd calls.
"""

from lit_fa.written.chain import Unsupported
from lit_fa.written.gradient import Result, WrittenGradient

__all__ = ["Result", "Unsupported", "WrittenGradient"]
