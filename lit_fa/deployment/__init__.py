"""Export of a trained classifier: merged or factored layers, folded normalisation, a file."""
