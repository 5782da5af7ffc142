"""Measurements on one CUDA device in ten minutes: accuracies at the papers' schedules, step times, seconds to 90 %."""
