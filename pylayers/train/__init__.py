"""Training as `caffe train` does it, in one process or in several that MPI starts."""
