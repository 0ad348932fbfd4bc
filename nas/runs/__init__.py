"""The run folder, its record, and the whole job that fills it."""
