"""Floor 4: a run, shown. Reads run folders; imports no torch."""
