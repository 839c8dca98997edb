"""Comparisons: a grid of methods, fractions, recipes and seeds, filled run by run, and what it says."""
