"""The executor `stacked`: rules with an explicit gradient on networks that are a chain of dense layers.

No autograd: one product of stacked matrices per layer and pass, in place. Its results are those of the executors
`vmap` and `sequential`, to rounding.
"""

from lit_fa.federated._dense_chain.executor import StackedExecutor

__all__ = ["StackedExecutor"]
