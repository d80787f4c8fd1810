"""Caffe's blobs and vectors as Python's types, in less time than pycaffe's own conversions take."""

from caffe._caffe import Blob

# Whether Caffe is built for CUDA. The class is asked: reading the attribute of a blob would move its data to the GPU.
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
    # Most vectors have one item or two, for which the comprehension takes twice as long.
    if len(vector) == 2:
        return [vector[0], vector[1]]
    return [vector[0]] if len(vector) == 1 else [vector[index] for index in range(len(vector))]
