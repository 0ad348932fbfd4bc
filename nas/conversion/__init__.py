"""Convert torch modules to Core ML and LiteRT, with the operator variants that run fastest on each."""
