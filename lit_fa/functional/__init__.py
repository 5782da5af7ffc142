"""Pure functions of tensors: every formula of every paper lives here, once. Imports torch alone."""
