"""The networks of `lit_fa.testing`, on which the contract tests run as well."""

from lit_fa.testing.networks import CLASSES, NETWORKS, ByKeyword, Mean, Residual, mlp, residual, small_conv, tokens

__all__ = ["CLASSES", "NETWORKS", "ByKeyword", "Mean", "Residual", "mlp", "residual", "small_conv", "tokens"]
