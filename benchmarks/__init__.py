"""What a training step costs, measured. Timing lives here and never in a test that passes or fails."""
