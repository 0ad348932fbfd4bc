"""Exact solutions: the 0-1 program, Pareto fronts and sweeps, which bound binds, and when a search may end early."""
