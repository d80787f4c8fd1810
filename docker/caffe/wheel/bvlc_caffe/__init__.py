"""What the wheel bvlc-caffe has beside Caffe's own package `caffe`: the commands, and where CUDA's libraries are."""
