"""Quality of clips: reconstruction, Frechet distances, and the evaluation of generated clips."""
