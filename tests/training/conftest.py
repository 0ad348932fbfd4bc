"""Fixtures of these tests."""

from tests.support.training_fixtures import decoder, finetuned, space, vae  # noqa: F401
