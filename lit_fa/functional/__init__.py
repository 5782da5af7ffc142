"""Pure functions of tensors. Every formula of every paper is here, once. This package imports only torch."""
