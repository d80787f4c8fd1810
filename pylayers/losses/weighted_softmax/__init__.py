"""Weighted softmax loss."""
