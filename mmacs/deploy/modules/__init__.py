"""Layers that compute with a model's integers: what runtimes are compared with, and what emits the nodes of a file."""
