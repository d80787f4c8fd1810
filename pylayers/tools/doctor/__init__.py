"""`pylayers doctor`: says what is wrong with Caffe, a net or a solver before Caffe ends with it, and what to write.

Nothing here imports Caffe, which may be what is wrong. `check` and `read` do, once Caffe is known to work.
"""

import sys
import textwrap
from typing import NamedTuple

from pylayers.caffe_nets.text import read_text
from pylayers.errors import UserError
from pylayers.tools import arguments, report
from pylayers.tools.doctor import environment

HELP = "say what is wrong with Caffe, a net or a solver, before Caffe does"
EXAMPLE = """\
example:
  pylayers doctor                                            # Caffe, its Python module, protobuf, NumPy
  pylayers doctor prototxt/demo/digits_solver.prototxt       # these, and the nets that the solver names
  pylayers doctor */solver.prototxt                          # several files
  pylayers doctor net.prototxt --gpu 0,1                     # before caffe train --gpu 0,1

GPU mode, and then CuPy, are checked where caffe train would use them: with --gpu, or with solver_mode: GPU written in
the solver. A net by itself is checked in each phase in which it is whole.

exit status: 0 where nothing is wrong, or nothing but warnings; 1 for errors; 2 for a file that cannot be used"""


def add_arguments(parser):
    """The command's arguments."""
    parser.add_argument("files", nargs="*", metavar="FILE.prototxt", help="nets and solvers; none for Caffe alone")
    parser.add_argument("--gpu", type=arguments.gpus, metavar="IDS", help="as for caffe train, such as 0 or 0,1 or all")
    parser.add_argument("--no-run", action="store_true", help="build the nets, and do not run them")
    parser.add_argument(
        "--run-limit",
        type=arguments.above_zero,
        default=60,
        metavar="SECONDS",
        help="what a net's run has; default: 60",
    )
    parser.add_argument("--json", metavar="FILE", help="write the result here")


def run(options):
    """Runs the command.

    Args:
        options: the parsed arguments, as `add_arguments` declares them.

    Returns:
        The exit status: 0 where there is no error, 1 where there is one, 2 where a file cannot be used.

    Raises:
        UserError: no file can be read or parsed, or a net that it names; or the result cannot be written.
    """
    with report.whole_file(options.json) as json_file:
        found = examine(options.files, options.gpu, None if options.no_run else options.run_limit)
        if options.files and len(found.refused) == len(options.files):
            *others, last = found.refused
            for message in others:
                _refuse(message)
            raise UserError(last)
        for message in found.refused:
            _refuse(message)
        count = {kind: sum(each.severity == kind for each in found.findings) for kind in ("error", "warning")}
        _print(found.facts, found.findings, count)
        if not found.is_checked:
            names = ", ".join(options.files)
            print(f"pylayers doctor: {names} could not be checked: that needs Caffe's Python module")
        report.write_json(
            json_file,
            {
                "files": options.files,
                "refused": found.refused,
                "gpu": options.gpu,
                "environment": found.facts,
                "errors": count["error"],
                "warnings": count["warning"],
                "findings": [finding._asdict() for finding in found.findings],
            },
        )
    return 2 if found.refused else 1 if count["error"] else 0


class Examined(NamedTuple):
    """What was found out."""

    facts: dict  # about Caffe
    findings: list  # of `finding.Finding`
    is_checked: bool  # whether the files could be checked
    refused: list  # why a file cannot be used, a line each


def examine(files=(), gpu=None, limit=60):
    """Finds out what is wrong.

    Args:
        files: of nets and solvers; none for Caffe alone.
        gpu: what ``caffe train --gpu`` is to be given.
        limit: the seconds that a net may run; None not to run it.

    Returns:
        What was `Examined`.
    """
    refused = []
    files = [file for file in dict.fromkeys(files) if _refusal(read_text, file, refused) is not None]
    if refused and not files:
        return Examined({}, [], False, refused)
    facts, findings = environment.check_caffe()
    if not environment.is_usable(findings):
        return Examined(facts, findings, not files, refused)
    gpus, place = environment.gpus_of(gpu) if gpu else [], {}
    for file in files:
        nets = _refusal(_check, (file, gpu, limit), refused)
        if nets is None:
            continue
        findings += nets.findings
        if not gpus and nets.gpu is not None:
            gpus, place = [nets.gpu], {"file": file, "line": nets.gpu_line}
    if gpus:
        findings += environment.check_gpu(gpus, **place)
    return Examined(facts, list(dict.fromkeys(findings)), True, refused)


def _check(arguments):
    """The nets of one file as `read.Read`, with all findings in it."""
    from pylayers.tools.doctor.check import check
    from pylayers.tools.doctor.read import read

    file, gpu, limit = arguments
    nets = read(file)
    found = [*nets.findings, *check(nets, gpu, limit)]
    found.sort(key=lambda finding: (finding.file, finding.line or 0))
    return nets._replace(findings=found)


def _refusal(function, argument, refused):
    """What the function returns; None where it raises a UserError, whose message is put into `refused`."""
    try:
        return function(argument)
    except UserError as error:
        refused.append(str(error))
        return None


def _refuse(message):
    print(f"pylayers doctor: {message}", file=sys.stderr)


def _print(facts, findings, count):
    versions = [f"{name} {facts[key]}" for name, key in _VERSIONS.items() if facts[key]]
    if facts["caffe"] and not facts["numba"]:
        versions.append("no Numba, with which the losses are faster on the CPU")
    print(", ".join(versions) + (f"; Caffe in {facts['folders'][0]}" if facts["caffe"] and facts["folders"] else ""))
    for finding, others in _grouped(findings):
        place = ":".join(str(part) for part in (finding.file, finding.line) if part is not None)
        layer = f'layer "{finding.layer}": ' if finding.layer else ""
        print(f"{place + ': ' if place else ''}{finding.severity}: {layer}{finding.found} [{finding.rule}]")
        if finding.write:
            print(f"    write: {finding.write}")
        if others:
            lines = ", ".join(str(other.line) for other in others)
            print(textwrap.fill(f"the same in {len(others)} more lines: {lines}", 100, **_INDENT))
        if finding.detail:
            print(textwrap.indent(finding.detail.strip(), "    | "))
    if not findings:
        print("nothing wrong found")
    else:
        print(", ".join(f"{number} {kind}{'s' * (number != 1)}" for kind, number in count.items()))


_INDENT = {"initial_indent": "    ", "subsequent_indent": "    "}


def _grouped(findings):
    """Each finding with those that say the same of other lines, where they are more than three, as a fork's are."""
    groups = {}
    for finding in findings:
        groups.setdefault(finding._replace(line=None, layer=None), []).append(finding)
    for group in groups.values():
        for finding in group if len(group) <= 3 else group[:1]:
            yield finding, [] if len(group) <= 3 else group[1:]


_VERSIONS = {
    "Python": "python",
    "Caffe": "caffe",
    "NumPy": "numpy",
    "Numba": "numba",
    "protobuf": "protobuf",
    "CUDA": "cuda",
}
