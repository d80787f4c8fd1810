"""`pylayers doctor`: says what is wrong with Caffe, a net or a solver before Caffe ends with it, and what to write.

Nothing here imports Caffe, which may be what is wrong. `check` and `read` do, once Caffe is known to work.
"""

import textwrap

from pylayers.caffe_nets.text import read_text
from pylayers.tools import arguments, report
from pylayers.tools.doctor import environment

HELP = "say what is wrong with Caffe, a net or a solver, before Caffe does"
EXAMPLE = """\
example:
  pylayers doctor                                            # Caffe, its Python module, protobuf, NumPy
  pylayers doctor prototxt/demo/digits_solver.prototxt       # these, and the nets that the solver names
  pylayers doctor net.prototxt --gpu 0,1                     # before caffe train --gpu 0,1

GPU mode, and then CuPy, are checked where caffe train would use them: with --gpu, or with solver_mode: GPU written in
the solver. A net by itself is checked in each phase in which it is whole.

exit status: 0 where nothing is wrong, or nothing but warnings; 1 for errors; 2 for a file that cannot be used"""


def add_arguments(parser):
    """The command's arguments."""
    parser.add_argument("file", nargs="?", metavar="FILE.prototxt", help="a net or a solver; none for Caffe alone")
    parser.add_argument("--gpu", type=arguments.gpus, metavar="IDS", help="as for caffe train, such as 0 or 0,1 or all")
    parser.add_argument("--json", metavar="FILE", help="write the result here")


def run(options):
    """Runs the command.

    Args:
        options: the parsed arguments, as `add_arguments` declares them.

    Returns:
        The exit status: 0 where there is no error, 1 where there is one.

    Raises:
        UserError: the file, or a net that it names, cannot be read or parsed; or the result cannot be written.
    """
    with report.whole_file(options.json) as json_file:
        facts, findings, is_checked = examine(options.file, options.gpu)
        count = {kind: sum(finding.severity == kind for finding in findings) for kind in ("error", "warning")}
        _print(facts, findings, count)
        if not is_checked:
            print(f"{options.file} could not be checked: that needs Caffe's Python module")
        report.write_json(
            json_file,
            {
                "file": options.file,
                "gpu": options.gpu,
                "environment": facts,
                "errors": count["error"],
                "warnings": count["warning"],
                "findings": [finding._asdict() for finding in findings],
            },
        )
    return 1 if count["error"] else 0


def examine(file=None, gpu=None):
    """Finds out what is wrong.

    Args:
        file: the path of a net or a solver; None for Caffe alone.
        gpu: what is to be given to ``caffe train --gpu``, such as "0,1"; or None.

    Returns:
        A dict of facts about Caffe, a list of `finding.Finding`, and whether the file could be checked.

    Raises:
        UserError: the file, or a net that it names, cannot be read or parsed.
    """
    if file:
        read_text(file)
    facts, findings = environment.check_caffe()
    if not environment.is_usable(findings):
        return facts, findings, not file
    gpus, place, in_file = environment.gpus_of(gpu) if gpu else [], {}, []
    if file:
        from pylayers.tools.doctor.check import check
        from pylayers.tools.doctor.read import read

        nets = read(file)
        in_file = [*nets.findings, *check(nets, gpu)]
        in_file.sort(key=lambda finding: (finding.file, finding.line or 0))
        if not gpus and nets.gpu is not None:
            gpus, place = [nets.gpu], {"file": file, "line": nets.gpu_line}
    if gpus:
        findings += environment.check_gpu(gpus, **place)
    return facts, findings + in_file, True


def _print(facts, findings, count):
    versions = [f"{name} {facts[key]}" for name, key in _VERSIONS.items() if facts[key]]
    if facts["caffe"] and not facts["numba"]:
        versions.append("no Numba, with which the losses are faster on the CPU")
    print(", ".join(versions) + (f"; Caffe in {facts['folders'][0]}" if facts["caffe"] and facts["folders"] else ""))
    for finding in findings:
        place = ":".join(str(part) for part in (finding.file, finding.line) if part is not None)
        layer = f'layer "{finding.layer}": ' if finding.layer else ""
        print(f"{place + ': ' if place else ''}{finding.severity}: {layer}{finding.found} [{finding.rule}]")
        if finding.write:
            print(f"    write: {finding.write}")
        if finding.detail:
            print(textwrap.indent(finding.detail.strip(), "    | "))
    if not findings:
        print("nothing wrong found")
    else:
        print(", ".join(f"{number} {kind}{'s' * (number != 1)}" for kind, number in count.items()))


_VERSIONS = {
    "Python": "python",
    "Caffe": "caffe",
    "NumPy": "numpy",
    "Numba": "numba",
    "protobuf": "protobuf",
    "CUDA": "cuda",
}
