"""What runs left behind: their records, and how the measured numbers compare with the published ones."""
