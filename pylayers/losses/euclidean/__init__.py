"""Euclidean loss."""
