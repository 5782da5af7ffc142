"""Layer-parallel training: the blocks of a network on several ranks, for rules without a backward pass through it."""
