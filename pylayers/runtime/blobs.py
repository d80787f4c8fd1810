"""Caffe's blobs and vectors in Python's terms, without the microseconds of pycaffe's own way."""

from caffe._caffe import Blob

# A Caffe that is built for CUDA. To read this attribute of a blob would move its data to the GPU; the class is asked.
CUDA_BUILD = hasattr(Blob, "_gpu_data_ptr")


def shape_of(blob):
    """A blob's shape as a tuple of int.

    ``tuple(blob.shape)`` gives the same but takes 5 µs; an empty layer's forward and backward take 3 µs together.
    """
    if not CUDA_BUILD and blob.count:
        return blob.data.shape
    shape = blob.shape
    return tuple([shape[axis] for axis in range(len(shape))])


def as_list(vector):
    """Caffe's vector of blobs as a list. The vector has a length and an index, but no iterator."""
    # Most have two items or one; the comprehension takes twice as long for them.
    if len(vector) == 2:
        return [vector[0], vector[1]]
    return [vector[0]] if len(vector) == 1 else [vector[index] for index in range(len(vector))]
