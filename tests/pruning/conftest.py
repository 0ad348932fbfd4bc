"""Fixtures of these tests."""

from tests.support.model_fixtures import inputs, randomise, seed, space  # noqa: F401
