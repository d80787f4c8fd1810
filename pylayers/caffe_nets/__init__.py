"""Caffe's nets as the tools need them: read from prototxt, built, tried in a child process."""
