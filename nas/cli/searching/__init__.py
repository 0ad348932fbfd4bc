"""Commands that solve a search exactly, and the options of all commands that search."""
