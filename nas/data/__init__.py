"""Data sets: reading and writing clips and images, and the latent cache that training reads."""
