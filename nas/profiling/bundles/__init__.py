"""Bundles: compiled workloads for a phone that is not attached to this machine."""
