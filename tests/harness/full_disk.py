"""A disk that is full, as far as this process can see: no file grows beyond a size."""

import contextlib
import resource


@contextlib.contextmanager
def file_size_limit(size):
    """Makes each write fail that would let a file grow beyond `size` bytes, with EFBIG in place of ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
