"""What an experiment is, as data: tables with their cells, scales and figures, and sweeps. Imports no torch."""
