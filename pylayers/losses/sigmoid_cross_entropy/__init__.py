"""Sigmoid cross-entropy loss."""
