"""Fixtures for the conversion tests."""

from tests.support.model_fixtures import inputs, randomize, seed, space  # noqa: F401
