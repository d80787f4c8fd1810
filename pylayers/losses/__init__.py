"""The losses: one folder a loss, with its layer, its formula, its loops and its kernels."""
