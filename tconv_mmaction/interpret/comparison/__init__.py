"""Two networks side by side on the same clips: measures, statistics, the log of a run, tables."""
