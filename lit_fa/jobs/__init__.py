"""How runs are carried out: worker processes, one lock per run, progress, and task lists for other machines."""
