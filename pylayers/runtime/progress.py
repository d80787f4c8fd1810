"""A progress bar on stderr, where that is a terminal."""

import contextlib
import sys


@contextlib.contextmanager
def progress_bar(title, total):
    """Shows how far some work is.

    Args:
        title: what is done, such as "timing".
        total: the number of steps.

    Yields:
        A function that moves the bar on by a number of steps, 1 by default.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda steps=1: progress.advance(task, steps)
