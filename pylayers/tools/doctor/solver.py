"""`pylayers doctor`: a solver's own settings, by the checks that end `caffe train` (solver.cpp, sgd_solver.cpp)."""

import os

from pylayers.tools.doctor.finding import nearest

TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")


def settings(param, path, tests):
    """What is wrong with a solver's settings.

    Args:
        param: the SolverParameter.
        path: the path of its file.
        tests: the number of its test nets.

    Yields:
        The severity, the name of the field, what was found and what to write.
    """
    if param.type not in TYPES:
        near = nearest(param.type, TYPES) or "SGD"
        found = f'type "{param.type}", which Caffe does not know, ends caffe train at the start'
        yield "error", "type", found, f'type: "{near}" (of {", ".join(TYPES)})'
    policy = param.lr_policy
    if policy not in POLICIES:
        near = nearest(policy, POLICIES) or "fixed"
        found = f'lr_policy "{policy}", which Caffe does not know,' if policy else "no lr_policy: caffe train"
        names = ", ".join(POLICIES)
        yield "error", "lr_policy", f"{found} ends in the first iteration", f'lr_policy: "{near}" (of {names})'
    elif policy in ("step", "sigmoid") and param.stepsize <= 0:
        yield "error", "stepsize", f'lr_policy "{policy}" needs a stepsize, found {param.stepsize}', "stepsize: 10000"
    elif policy == "multistep" and not param.stepvalue:
        found = 'lr_policy "multistep" without a stepvalue: the learning rate stays as it is'
        yield "warning", "lr_policy", found, "stepvalue: 10000"
    yield from _numbers(param)
    if not param.base_lr:
        yield "warning", "base_lr", "base_lr is 0: nothing learns", "base_lr: 0.01"
    if param.max_iter <= 0:
        found = f"max_iter is {param.max_iter}" if param.HasField("max_iter") else "no max_iter, which is then 0"
        yield "warning", "max_iter", f"{found}: caffe train ends before the first iteration", "max_iter: 10000"
    yield from _tests(param, tests)
    # A folder is a prefix too, and so is the solver's name where there is none.
    prefix = param.snapshot_prefix or path
    folder = prefix if os.path.isdir(prefix) else os.path.dirname(prefix) or "."
    if (param.snapshot or param.snapshot_after_train) and not os.access(folder, os.W_OK):
        when = "at the start" if param.snapshot else "at its end, and what was learnt is lost"
        is_there = os.path.isdir(folder)
        found = (
            f"user {os.getuid()} cannot write to the folder {folder}" if is_there else f"there is no folder {folder}"
        )
        write = (
            "another snapshot_prefix, or another user (docker run --user)"
            if is_there
            else f"mkdir -p {folder}, or another snapshot_prefix"
        )
        yield "error", "snapshot_prefix", f"{found}, so caffe train ends {when}", write


def _tests(param, tests):
    """As `settings`, of what says how often the test nets are run, and how long."""
    if tests and param.test_interval <= 0:
        found = f"a test net needs a test_interval, found {param.test_interval}: caffe train ends at the start"
        yield "error", "test_interval", found, "test_interval: 500"
    if param.test_interval > 0 and not tests and not param.test_iter:
        yield "warning", "test_interval", "test_interval without test_iter: nothing is tested", "test_iter: 100"
    if len(param.test_iter) != tests:
        found = f"{len(param.test_iter)} test_iter for {tests} test nets: caffe train ends at the start"
        yield "error", "test_iter", found, "test_iter: 100, once for each test net"


def _numbers(param):
    """Yields what `settings` does, for numbers out of Caffe's range, which depends on the solver's type."""
    if param.type in ("AdaGrad", "RMSProp") and param.momentum:
        found = f"momentum {param.momentum:g} with type {param.type}, which knows none, ends caffe train at the start"
        yield "error", "momentum", found, "momentum: 0, or no such line"
    if param.type == "RMSProp" and not 0 <= param.rms_decay < 1:
        found = f"rms_decay must be from 0 to below 1, found {param.rms_decay:g}: caffe train ends at the start"
        yield "error", "rms_decay", found, "rms_decay: 0.99"
    if param.momentum >= 1:
        found = f"momentum {param.momentum:g}: what was learnt once never fades, and the steps grow without end"
        yield "warning", "momentum", found, "momentum: 0.9"
    if param.average_loss < 1:
        found = f"average_loss must be at least 1, found {param.average_loss}: caffe train ends at the start"
        yield "error", "average_loss", found, "average_loss: 1"
    if param.iter_size < 1:
        found = f"iter_size must be at least 1, found {param.iter_size}: no batch is read, or the loss is no number"
        yield "error", "iter_size", found, "iter_size: 1"
    if param.weight_decay and param.regularization_type not in ("L1", "L2"):
        found = (
            f'regularization_type "{param.regularization_type}", which Caffe does not know, ends caffe train in the '
            "first iteration"
        )
        yield "error", "regularization_type", found, 'regularization_type: "L2", or "L1"'
