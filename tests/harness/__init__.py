"""What the tests share. Nothing here is a test."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
