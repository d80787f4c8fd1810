"""Channel-summed Euclidean loss."""
