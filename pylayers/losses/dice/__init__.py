"""Dice loss."""
