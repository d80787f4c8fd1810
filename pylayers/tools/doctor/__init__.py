"""`pylayers doctor`: says what is wrong with Caffe, a net or a solver before Caffe ends with it, and what to write.

Nothing here imports Caffe, which may be what is wrong; `pylayers.tools.doctor.nets` does, once it is known to work.
"""

import textwrap

from pylayers.tools import report as output
from pylayers.tools.doctor import environment as doctor_environment


def run(options):
    """The command.

    Args:
        options: a namespace with `file`, `gpu` and `json`.

    Returns:
        The exit status: 0 where there is no error, 1 where there is one.

    Raises:
        UserError: the file, or a net that it names, cannot be read or parsed; or the result cannot be written.
    """
    with output.whole_file(options.json) as json_file:
        facts, findings, is_checked = examine(options.file, options.gpu)
        count = {kind: sum(finding.severity == kind for finding in findings) for kind in ("error", "warning")}
        _print(facts, findings, count)
        if not is_checked:
            print(f"{options.file} could not be checked: that needs Caffe's Python module")
        output.write_json(
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
        file: of a net or a solver; None for Caffe alone.
        gpu: what ``caffe train --gpu`` is to be given.

    Returns:
        A dict of facts about Caffe, a list of `doctor_environment.Finding`, and whether the file could be checked.

    Raises:
        UserError: as `run`.
    """
    if file:
        output.read_text(file)
    facts, findings = doctor_environment.check_caffe()
    if not doctor_environment.is_usable(findings):
        return facts, findings, not file
    gpus, place, in_file = doctor_environment.gpus_of(gpu) if gpu else [], {}, []
    if file:
        from pylayers.tools.doctor import nets as doctor_net
        from pylayers.tools.doctor import rules as doctor_rules

        read = doctor_net.read(file)
        in_file = [*read.findings, *doctor_rules.check(read, gpu)]
        in_file.sort(key=lambda finding: (finding.file, finding.line or 0))
        if not gpus and read.gpu is not None:
            gpus, place = [read.gpu], {"file": file, "line": read.gpu_line}
    if gpus:
        findings += doctor_environment.check_gpu(gpus, **place)
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
