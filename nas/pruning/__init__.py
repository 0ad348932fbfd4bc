"""Block and channel pruning of the spatial backbone."""
