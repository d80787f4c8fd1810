"""What all losses stand on: Caffe's mode, the GPU, CUDA kernels, tiles and threads."""
