"""`pylayers plot-log`: what Caffe's solver logs, drawn or written as CSV."""

from pathlib import Path

from pylayers.errors import UserError
from pylayers.tools import arguments, report

HELP = "draw what Caffe's solver logs, or write it as CSV"
EXAMPLE = """\
example:
  pylayers plot-log caffe.log -o curves.png --csv caffe.csv
  pylayers plot-log plain.log weighted.log -o both.svg"""


def add_arguments(parser):
    """The command's arguments."""
    parser.add_argument("logs", nargs="+", metavar="LOG", help="what caffe train wrote to stderr; - for stdin")
    parser.add_argument(
        "-o", "--output", type=arguments.picture, metavar="FILE.png", help="the curves; also .svg and .pdf"
    )
    parser.add_argument("--csv", metavar="FILE", help="all numbers, one a row")
    parser.add_argument("--no-join", action="store_true", help="leave a resumed run apart from its first part")


def run(options):
    """Runs the command.

    Args:
        options: the parsed arguments, as `add_arguments` declares them.

    Returns:
        The exit status, 0.

    Raises:
        OSError: a log cannot be read.
        UserError: a log holds no iteration, or an output cannot be written.
    """
    from pylayers.tools.plot_log import drawing, reading

    if not options.output and not options.csv:
        raise UserError("give -o FILE.png or --csv FILE, or both")
    try:
        logs = [reading.read_log(path) for path in options.logs]
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(str(error)) from None
    if options.no_join:
        records, resumed = [record for log in logs for record in log.records], []
    else:
        records, resumed = reading.join(logs)
    count = None
    with report.whole_file(options.output) as picture, report.whole_file(options.csv) as table:
        if table:
            drawing.write_csv(records, table)
        if picture:
            count = drawing.plot(records, picture, Path(options.output).suffix[1:].lower())
    outputs = [path for path in (options.output, options.csv) if path]
    if all(Path(path).is_file() for path in outputs):  # and not into a pipe, which may be this output
        print(f"{' and '.join(outputs)}: {_summary(logs, records, resumed, count)}")
    return 0


def _summary(logs, records, resumed, count):
    """One line on what was read and drawn."""
    iterations = [record.iteration for record in records]
    runs = len({(record.log, record.run) for record in records})
    parts = [
        f"iterations {min(iterations)} to {max(iterations)}",
        *([f"{runs} runs"] if runs > 1 else []),
        *(f"{each.log} goes on from iteration {each.iteration}" for each in resumed),
        f"{len(records)} numbers" if count is None else f"{count} curve{'s' if count > 1 else ''}",
    ]
    unread = [f"line {number} of {log.records[0].log}" for log in logs for number in log.unread]
    if unread:
        others = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        parts.append(f"{unread[0]}{others} could not be read")
    return ", ".join(parts)
