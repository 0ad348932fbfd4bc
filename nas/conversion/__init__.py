"""torch modules to Core ML and LiteRT, with the operator variants that each runs fastest."""
