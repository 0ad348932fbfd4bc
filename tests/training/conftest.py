"""Fixtures of these tests."""

from tests.support.training_fixtures import decoder, space, vae  # noqa: F401
