"""Proves a layer's gradient: backward against central differences of forward, on real Caffe.

It takes any layer: a Python layer, or one of Caffe's own. The layer alone is put into a net, with an Input for each
bottom, and Caffe itself runs that net.
"""

from collections.abc import Sequence
from typing import Any, Optional, Union

import caffe
import numpy as np
from caffe.proto import caffe_pb2

from pylayers.caffe_facts import GRADIENT_CHECKER
from pylayers.gradient_check import inputs, rules
from pylayers.gradient_check.blobs import Settings, check_blob
from pylayers.gradient_check.prints import held_back
from pylayers.gradient_check.report import BlobResult, Report
from pylayers.gradient_check.subject import Subject, random_state_kept

__all__ = ["BlobResult", "NothingToCheckError", "Report", "assert_gradient", "check_gradient"]

# Caffe's own gradient checker moves each value by 1e-2; here that is relative to the blob's root mean square. The
# threshold is a share of the blob's largest gradient. The difference quotient itself is off by about the step's square,
# 1e-4.
STEP, THRESHOLD = GRADIENT_CHECKER["step"], GRADIENT_CHECKER["threshold"]


class NothingToCheckError(ValueError):
    """No bottom and no parameter of the layer has a gradient, so there is nothing that could be right or wrong."""


def assert_gradient(layer: Union[str, caffe_pb2.LayerParameter], bottoms: Sequence, **options: Any) -> None:
    """Checks a layer's gradient in a user's own tests; see `check_gradient` for what is checked.

    Args:
        layer: as for `check_gradient`.
        bottoms: as for `check_gradient`.
        **options: as for `check_gradient`.

    Raises:
        AssertionError: a derivative is off or a rule is broken; the message is the whole report.
        ValueError: as `check_gradient`.

    Example:
        >>> assert_gradient('type: "EuclideanLoss"', [(4, 3), (4, 3)], loss_weight=2)
    """
    report = check_gradient(layer, bottoms, **options)
    assert report.passed, f"the gradient of {layer} is wrong:\n{report}"


def check_gradient(
    layer: Union[str, caffe_pb2.LayerParameter],
    bottoms: Sequence,
    *,
    labels: Optional[dict] = None,
    constants: Sequence[int] = (),
    loss_weight: Optional[float] = None,
    step: float = STEP,
    threshold: float = THRESHOLD,
    kink: float = GRADIENT_CHECKER["kink"],
    kink_range: float = GRADIENT_CHECKER["kink_range"],
    seed: int = GRADIENT_CHECKER["seed"],
    phase: int = caffe.TEST,
) -> Report:
    """Compares backward with central differences of forward.

    The objective is Σ v·top, where v is the tops' diff. It is `loss_weight` for a layer whose first top has one
    element, and random numbers for others, so that a layer which ignores its top's diff is found out.

    First, forward must be repeatable: the same for the same values, with all random generators seeded, and also after
    other values. Where it is not, nothing else is checked.

    float32 limits what can be seen. A derivative may be off by `threshold` times the blob's largest one, plus the
    rounding error of the objective divided by the step. Where it is off by more, a step may have crossed a kink, as L1
    and Huber losses have. A small blob's element is then compared with the slope on one side of the kink; a large blob
    is compared without the elements whose gradient leaps. What is still off may be off by twice the spread of the
    derivatives from shorter steps. Rounding and shorter steps add at most a tenth of the largest derivative. Where that
    does not suffice, or each element lies beside a kink, the verdict is UNSURE, and the check does not pass.

    Beside the derivatives some rules are checked. Forward and backward must leave the bottoms' data as they are. Twice
    the tops' diff must give twice the gradient. Backward must write a bottom's diff, and not add to it. Where
    propagate_down is false it must leave the diff alone; this is checked only if at least two bottoms have a gradient,
    since Caffe calls no backward otherwise.

    What the layer prints is counted and left out, but where it raises an exception.

    Args:
        layer: a LayerParameter, or its prototxt text from ``type:`` on; names of bottoms and tops do not matter.
        bottoms: for each bottom its shape, or an array. A shape is filled with normal random numbers, or with what the
            bottoms of Caffe's own layers may hold: labels, probabilities, positive numbers.
        labels: dict from the index of a bottom to the number of its classes. The bottom is filled with random labels.
        constants: indices of more bottoms that have no gradient. Two kinds are known and need not be given: the
            CONSTANTS of a loss on the kit's base classes, and the labels and targets of Caffe's own layers.
        loss_weight: the first top's diff where it has one element; 0.3 if not given.
        step: how far a value is moved, relative to the root mean square of its blob.
        threshold: how far a derivative may be off, as a share of the blob's largest one.
        kink: where forward may have a kink, as in Caffe's checker. An element is skipped if its abs(value) lies within
            `kink_range` of `kink`.
        kink_range: how near to `kink` elements are skipped; negative for no kink.
        seed: of all random numbers, the layer's own included.
        phase: caffe.TEST or caffe.TRAIN.

    Returns:
        A `Report`.

    Raises:
        ValueError: the text is no layer, an index is out of range, or (`NothingToCheckError`) there is no bottom with a
            gradient, and no parameter.
        UserError: a bottom that a loss calls its label is a shape and not among `labels`, and the loss does not say how
            many classes there are.

    Example:
        >>> report = check_gradient('type: "SoftmaxWithLoss"', [(4, 3), (4,)], labels={1: 3})
        >>> report.passed
        True
    """
    layer = inputs.layer_parameter(layer)
    labels = {**inputs.known_labels(layer, bottoms), **(labels or {})}
    inputs.check_indices(len(bottoms), labels, constants)
    constants = {*constants, *inputs.known_constants(layer, len(bottoms), labels)}
    random = np.random.default_rng(seed)
    wanted = [index for index in range(len(bottoms)) if index not in labels and index not in constants]
    settings = Settings(step, threshold, kink, kink_range)
    with random_state_kept(), held_back() as prints:
        subject = Subject(layer, inputs.draw(layer, bottoms, labels, random), wanted, seed, phase)
        subject.draw_upstream(random, 0.3 if loss_weight is None else loss_weight)
        report = _report(subject, settings, random)
    return report._replace(notes=prints.notes)


def _report(subject, settings, random):
    if not subject.checked:
        raise NothingToCheckError("nothing to check: each bottom is a label or a constant, and there is no parameter")
    violations = rules.repeatable(subject, settings.step)
    if violations:
        return Report([], violations)
    violations = rules.in_place(subject) + rules.leaves_loss_weight(subject)
    subject.backward()
    gradients = {name: subject.diff(name) for name in subject.checked}
    results = [check_blob(subject, name, gradient, settings, random) for name, gradient in gradients.items()]
    # Of a gradient that is wrongly 0 its result says already that backward may not write it.
    missing = {result.blob for result in results if result.verdict == "WRONG" and not gradients[result.blob].any()}
    written = {name: gradient for name, gradient in gradients.items() if name[:6] == "bottom" and name not in missing}
    violations += rules.added(subject, written)
    if Report(results, []).derivatives_agree:
        violations += rules.not_scaled(subject, written)
    violations += rules.written_unasked(subject, list(written))
    return Report(results, violations)
