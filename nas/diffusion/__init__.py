"""Prediction types, losses, noise schedules and samplers."""
