"""Smooth L1 loss."""
