"""The errors of the kit that are no bug: what a user gave was wrong, and one line says what."""


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
