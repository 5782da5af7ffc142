"""Real work, killed at random, resumed and compared with an unbroken run."""
