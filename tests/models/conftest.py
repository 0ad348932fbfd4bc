"""Fixtures of these tests."""

from tests.support.model_fixtures import inputs, randomize, seed, space  # noqa: F401
