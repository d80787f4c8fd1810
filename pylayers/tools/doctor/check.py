"""`pylayers doctor`: applies all rules to the nets of a file."""

from pylayers.tools.doctor import environment, read, rules  # noqa: F401, they register the rules
from pylayers.tools.doctor.build import build
from pylayers.tools.doctor.finding import RULES
from pylayers.tools.doctor.first_run import first_run
from pylayers.tools.doctor.modules import import_modules


def check(nets, gpus, limit=None):
    """Checks the nets of a file: by the rules, and then by Caffe, which builds and runs them.

    It builds what the rules find no error in, and runs what it could build.

    Args:
        nets: a `read.Read`.
        gpus: what ``--gpu`` says, or None.
        limit: the seconds that each net may run; None not to run it.

    Returns:
        A list of findings, each once.
    """
    phases = {}  # from each finding to its phases, so that what is wrong in both is said once
    modules, path = import_modules(nets.nets)
    run = {()}  # nets that are the same in both phases, as those without a loss may be, are run once
    for net in nets.nets:
        net.modules, net.gpus = modules, gpus
        found = _apply(net, needs_shapes=False)
        if not any(finding.severity == "error" for finding in found):
            found += build(net, path)
        if net.shapes is not None:
            found += _apply(net, needs_shapes=True)
            same = None if net.has_loss else tuple(layer.param.SerializeToString() for layer in net.layers)
            if limit and not any(finding.severity == "error" for finding in found) and same not in run:
                run.add(same or ())
                found += first_run(net, path, limit)
        for finding in found:
            phases.setdefault(finding, set()).add(net.phase)
    return [
        finding._replace(found=f"{finding.found}, in phase {max(where).upper()}")
        if finding.rule == "build" and where != {net.phase for net in nets.nets}
        else finding
        for finding, where in phases.items()
    ]


def _apply(net, needs_shapes):
    checks = [rule.check for rule in RULES.values() if rule.check and rule.needs_shapes == needs_shapes]
    return [finding for check in checks for finding in check(net)]
