"""Conformance suites for extensions of this library, to be called from their tests."""
