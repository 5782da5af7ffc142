"""What one CUDA device settles in ten minutes: accuracies at the papers' schedules, step times, seconds to 90 %."""
