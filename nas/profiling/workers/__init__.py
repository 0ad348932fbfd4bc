"""Processes that load and time one workload each, and the pool that runs them."""
