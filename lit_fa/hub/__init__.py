"""A trained network for a model hub: its card, made from its record, and the upload."""
