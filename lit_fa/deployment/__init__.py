"""From a trained classifier to the network that is run: merged or factored layers, folded normalisation, a file."""
