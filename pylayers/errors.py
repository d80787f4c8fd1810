"""The errors of the kit that are no bug: what a user gave was wrong, and one line says what."""

import errno
import tempfile

# What the system says where a disk, a quota or a limit is full.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """What a user gave a command or a function cannot be used. The message is one line: what was found, what is right.

    Example:
        >>> from pylayers.errors import UserError
        >>> raise UserError("cannot read train.txt: there is no such file")
        Traceback (most recent call last):
        ...
        pylayers.errors.UserError: cannot read train.txt: there is no such file
    """


def first_line(error: BaseException) -> str:
    r"""The first line of what an exception says, or its kind where it says nothing.

    >>> first_line(ValueError("a wrong number\nand much more"))
    'a wrong number'
    >>> first_line(KeyboardInterrupt())
    'KeyboardInterrupt'
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def system_message(error: OSError) -> str:
    """What the system says of a file, in one line, with the file's name where it is known.

    >>> system_message(FileNotFoundError(2, "No such file or directory", "caffe.log"))
    'caffe.log: No such file or directory'
    """
    said = error.strerror or first_line(error)
    if error.filename is not None:
        return f"{error.filename}: {said}"
    if error.errno in FULL:
        folder = tempfile.gettempdir()
        return f"{said}: for temporary files, in {folder} (TMPDIR names another folder), or where the output goes"
    return said
