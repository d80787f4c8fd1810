"""The CUDA kernels without a GPU: compiled by NVRTC for all architectures, and run on the host in every layout.

See host_kernels.py for what a run on the host shows and what not.
"""

import ctypes
import itertools
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from harness import ROOT, host_kernels, oracle
from harness.closeness import assert_close_gradient, assert_close_loss
from harness.host_kernels import call, scratch

from pylayers import ChannelSumEuclideanLossLayer, EuclideanLossLayer, WeightedSoftmaxLossLayer
from pylayers.losses import labels as label_facts
from pylayers.runtime import geometry

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
EUCLIDEAN = EuclideanLossLayer.KERNELS
CHANNEL_SUM = ChannelSumEuclideanLossLayer.KERNELS
SOFTMAX = WeightedSoftmaxLossLayer.KERNELS
ALL = {"euclidean": EUCLIDEAN, "channel_sum_euclidean": CHANNEL_SUM, "weighted_softmax": SOFTMAX}
over_kernels = pytest.mark.parametrize("found", ALL.values(), ids=ALL.keys())
MACROS = {
    EUCLIDEAN: [{"WIDE": wide} for wide in (0, 1)],
    CHANNEL_SUM: [
        {"WIDE": wide, "FEW": few, "PRED_CHANNELS": pred, "TARGET_CHANNELS": target}
        for wide, few, pred, target in (
            *itertools.product((0, 1), (0, 1), (0,), (0,)),
            (0, 0, 3, 1),
            (0, 0, geometry.CHUNK, geometry.CHUNK),
        )
    ],
    SOFTMAX: [
        {"WIDE": wide, "CLASSES": classes} for wide, classes in ((0, 0), (1, 0), (0, 1), (0, 2), (0, geometry.CHUNK))
    ],
}
# What CuPy 14 adds to RawModule's options.
CUPYS_OPTIONS = ("-std=c++17", "-ftz=true", "--device-as-default-execution-space")
FEW_REGISTERS = 64  # of a thread: so 1024 threads run on a multiprocessor at once, on every architecture
ORDERS = range(4)  # of threads and blocks, see host_cuda.h
SENTINEL = 7

on_host = pytest.mark.skipif(host_kernels.COMPILER is None, reason="there is no g++ to compile the kernels with")


def nvrtc():
    """CuPy's NVRTC; skips the test where it cannot be had."""
    pytest.importorskip("cupy", reason="CuPy is not installed, see the extras cuda12 and test", exc_type=ImportError)
    from cupy_backends.cuda.libs import nvrtc

    try:
        nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"there is no NVRTC: {str(error).splitlines()[0]}")
    return nvrtc


@over_kernels
def test_nvrtc_compiles_all_variants_for_all_architectures_without_a_warning(found):
    compiler = nvrtc()

    def log_of(macros, architecture):
        program = compiler.createProgram(found.source, "kernels.cu", (), ())
        options = (*found.options(macros.items()), f"-arch=sm_{architecture}", *CUPYS_OPTIONS)
        try:
            compiler.compileProgram(program, (*options, "--ptxas-options=-v"))
            assert compiler.getCUBIN(program)
        except compiler.NVRTCError as error:
            return f"{error} error: {compiler.getProgramLog(program)}"
        finally:
            log = compiler.getProgramLog(program)
            compiler.destroyProgram(program)
        return log

    architectures = [each for each in ARCHITECTURES if each in compiler.getSupportedArchs()]
    assert set(ARCHITECTURES[:5]) <= set(architectures)
    variants = list(itertools.product(MACROS[found], architectures))
    with ThreadPoolExecutor(2) as pool:
        for variant, log in zip(variants, pool.map(lambda variant: log_of(*variant), variants)):
            assert "error" not in log, f"{variant}: {log}"
            assert "warning" not in log, f"{variant}: {log}"
            used = dict(re.findall(r"entry function '(\w+)'.*?Used (\d+) registers", log, re.DOTALL))
            assert max(map(int, used.values())) <= FEW_REGISTERS, f"{variant}: {log}"
            if not variant[0]["WIDE"]:
                spilled = [int(number) for number in re.findall(r"(\d+) bytes spill stores", log)]
                assert len(spilled) == 2, f"{variant}: {log}"
                assert not any(spilled), f"{variant}: {log}"


@over_kernels
def test_the_source_can_be_written_in_any_encoding(found):
    assert found.source.isascii()


@on_host
@over_kernels
def test_the_ctypes_params_have_the_size_of_the_struct(found):
    assert host_kernels.compiled(found, MACROS[found][0]).params_size() == ctypes.sizeof(found.params)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def same_bits(results):
    """Checks that all results, dicts of arrays, have the same bits; returns the first."""
    for other in results[1:]:
        for name, array in results[0].items():
            assert array.tobytes() == other[name].tobytes(), name
    return results[0]


# Euclidean


def euclidean(pred, target, weight=None, loss_weight=1.0, wanted=(True, True), order=0, wide=0, blocks=3, threads=32):
    num = len(pred)
    weights = 1 if weight is None else weight.size
    values = {
        "pred": pred,
        "target": target,
        "weight": weight,
        "loss": np.full(1, SENTINEL, np.float32),
        "loss_weight": np.array([loss_weight], np.float32),
        "scratch": scratch(EUCLIDEAN),
        "count": pred.size,
        "per_weight": pred.size // weights,
        "normalizer": num,
    }
    for _ in range(2):  # the second launch finds the counter of blocks at 0 again
        values["loss"][0] = SENTINEL
        call(EUCLIDEAN, {"WIDE": wide}, "forward", blocks, threads, order, values)
    diffs = {name: np.full_like(pred, SENTINEL) for name in ("pred_diff", "target_diff")}
    given = {name: diff for want, (name, diff) in zip(wanted, diffs.items()) if want}
    call(EUCLIDEAN, {"WIDE": wide}, "backward", blocks, threads, order, {**values, **given})
    return {"loss": values["loss"], **diffs}


@on_host
@pytest.mark.parametrize("wide", [0, 1])
@pytest.mark.parametrize("weights", [None, "element", "item"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (3, 4), (5, 7), (4, 33), (7, 64), (3, 401)])
def test_euclidean(shape, weights, wide):
    pred, target = draw(*shape), draw(*shape, seed=1)
    weight = {None: None, "element": draw(*shape, seed=2), "item": draw(shape[0], seed=2)}[weights]
    found = same_bits([euclidean(pred, target, weight, -0.3, order=order, wide=wide) for order in ORDERS])
    loss, *gradients = oracle.euclidean(pred, target, weight)
    assert_close_loss(found["loss"][0], loss)
    assert_close_gradient(found["pred_diff"], -0.3 * gradients[0])
    assert_close_gradient(found["target_diff"], -0.3 * gradients[1])


@on_host
@pytest.mark.parametrize("shifted", range(3))
def test_euclidean_at_addresses_that_are_no_multiples_of_16(shifted):
    arrays = [draw(5, 7), draw(5, 7, seed=1), draw(5, 7, seed=2)]
    memory = np.empty(arrays[0].size + 1, np.float32)
    moved = memory[1:].reshape(5, 7)
    moved[...] = arrays[shifted]
    arrays[shifted] = moved
    assert moved.ctypes.data % 16
    found = euclidean(*arrays)
    loss, gradient, _ = oracle.euclidean(*arrays)
    assert_close_loss(found["loss"][0], loss)
    assert_close_gradient(found["pred_diff"], gradient)


@on_host
@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)])
def test_a_diff_that_is_not_wanted_is_not_written(wanted):
    for found in (
        euclidean(draw(5, 7), draw(5, 7, seed=1), wanted=wanted),
        channel_sum(draw(2, 3, 4), draw(2, 1, 4, seed=1), wanted=wanted),
    ):
        for name, want in zip(("pred_diff", "target_diff"), wanted):
            assert (found[name] == SENTINEL).all() != want


@on_host
def test_a_loss_weight_of_zero_clears_the_gradient():
    found = euclidean(draw(5, 7), draw(5, 7, seed=1), loss_weight=0)
    assert not found["pred_diff"].any()
    assert not found["target_diff"].any()


# Channel sum


def channel_sum(
    pred, target, loss_weight=1.0, wanted=(True, True), rows=2, threads=16, blocks=3, order=0, wide=0, segments=1
):
    outer, channels, inner = pred.shape
    values = {
        "pred": pred,
        "target": target,
        "loss": np.full(1, SENTINEL, np.float32),
        "loss_weight": np.array([loss_weight], np.float32),
        "scratch": scratch(CHANNEL_SUM),
        "kept": np.full(outer * inner, SENTINEL, np.float32),
        **geometry.fields_of(outer, inner, rows),
        "pred_channels": channels,
        "target_channels": target.shape[1],
        "normalizer": outer,
        "segments": segments,
    }
    few_channels = rows == segments == 1 and max(channels, target.shape[1]) <= geometry.CHUNK
    macros = {
        "WIDE": wide,
        "FEW": int(segments > 1),
        "PRED_CHANNELS": channels if few_channels else 0,
        "TARGET_CHANNELS": target.shape[1] if few_channels else 0,
    }
    call(CHANNEL_SUM, macros, "forward", blocks, threads, order, values)
    diffs = {"pred_diff": np.full_like(pred, SENTINEL), "target_diff": np.full_like(target, SENTINEL)}
    given = {name: diff for want, (name, diff) in zip(wanted, diffs.items()) if want}
    call(CHANNEL_SUM, macros, "backward", blocks, threads, order, {**values, **given})
    return {"loss": values["loss"], **diffs}


@on_host
@pytest.mark.parametrize("segments", [1, 2, 16])
@pytest.mark.parametrize(
    ("rows", "threads", "wide"), [(1, 1, 0), (1, 32, 1), (1, 32, 0), (2, 8, 1), (8, 64, 0), (64, 64, 1)]
)
@pytest.mark.parametrize(
    ("shape", "target_channels"),
    [
        ((1, 1, 1), 1),
        ((5, 3, 1), 2),
        ((2, 2, 5), 5),
        ((2, 21, 5), 11),
        ((3, 70, 9), 36),
        ((3, 3, 9), 70),
        ((40, 2, 1), 2),
    ],
)
def test_channel_sum(shape, target_channels, rows, threads, segments, wide):
    pred, target = draw(*shape), draw(shape[0], target_channels, shape[2], seed=1)
    layout = {"rows": rows, "threads": threads, "segments": segments, "wide": wide}
    found = same_bits([channel_sum(pred, target, -2, order=order, **layout) for order in ORDERS])
    loss, *gradients = oracle.channel_sum_euclidean(pred, target)
    assert_close_loss(found["loss"][0], loss)
    assert_close_gradient(found["pred_diff"], -2 * gradients[0])
    assert_close_gradient(found["target_diff"], -2 * gradients[1])


@on_host
@pytest.mark.parametrize("channels", [3, 100])
def test_channel_sum_keeps_a_small_difference_of_large_sums(channels):
    pred = 1000 + draw(50, channels, 4)
    target = (pred.sum(axis=1, keepdims=True, dtype=np.float64) - 0.1).astype(np.float32)
    loss, gradient, _ = oracle.channel_sum_euclidean(pred, target)
    found = channel_sum(pred, target, rows=1)
    assert_close_loss(found["loss"][0], loss)
    assert_close_gradient(found["pred_diff"], gradient)


@on_host
def test_channel_sum_of_infinity_is_infinite():
    pred, target = draw(2, 21, 3), draw(2, 1, 3, seed=1)
    pred[1, 2] = np.inf
    assert channel_sum(pred, target)["loss"] == np.inf


# Softmax


def softmax(
    scores, label, loss_weight=1.0, macros=None, rows=2, threads=16, order=0, forward=True, wanted=("prob",), **options
):
    """Runs both kernels; `options` are those of oracle.weighted_softmax."""
    outer, classes, inner = scores.shape
    macros = {"WIDE": 0, "CLASSES": 0, **(macros or {})}
    weight, ignore = options.get("weight"), options.get("ignore_label")
    class_weights = options.get("class_weights")
    normalization = options.get("normalization", "VALID")
    wrong = np.zeros(2, np.int64)
    values = {
        "scores": scores,
        "label": label,
        "weight": weight,
        "class_weights": None if class_weights is None else np.array(class_weights, np.float64),
        "loss": np.full(1, SENTINEL, np.float32),
        "prob": np.full_like(scores, SENTINEL) if "prob" in wanted else None,
        "loss_weight": np.array([loss_weight], np.float32),
        "scratch": scratch(SOFTMAX),
        "kept": np.full(2 * label.size, SENTINEL, np.float32),
        "wrong": wrong,
        **geometry.fields_of(outer, inner, rows),
        "classes": classes,
        "per_weight": 1 if weight is None else label.size // weight.size,
        "ignore_label": np.nan if ignore is None else ignore,
        "normalization": label_facts.Z_KINDS.get(f"Z_{normalization}", 0),
        "normalizer": {"FULL": label.size, "BATCH_SIZE": outer}.get(normalization, 1),
    }
    if forward:
        call(SOFTMAX, macros, "forward", 3, threads, order, values)
    else:
        values["scratch"][1] = 1  # Z
    diff = np.full_like(scores, SENTINEL)
    call(SOFTMAX, macros, "backward", 3, threads, order, {**values, "scores_diff": diff})
    return {"loss": values["loss"], "diff": diff, "prob": values["prob"], "wrong": wrong}


def labels(scores, seed=1, ignore=None):
    random = np.random.default_rng(seed)
    label = random.integers(0, scores.shape[1], (scores.shape[0], scores.shape[2])).astype(np.float32)
    if ignore is not None:
        label[random.random(label.shape) < 0.3] = ignore
    return label


def check_softmax(scores, label, found, loss_weight=1.0, **options):
    loss, gradient = oracle.weighted_softmax(scores, label, **options)
    assert_close_loss(found["loss"][0], loss)
    assert_close_gradient(found["diff"], loss_weight * gradient)
    assert_close_gradient(found["prob"], oracle.softmax(scores))
    assert not found["wrong"].any()


@on_host
@pytest.mark.parametrize("wide", [0, 1])
@pytest.mark.parametrize("shape", [(1, 1, 1), (17, 3, 1), (2, 8, 5), (2, 21, 5), (3, 70, 3), (9, 70, 1)])
def test_softmax_in_every_layout(shape, wide):
    scores = 5 * draw(*shape)
    label = labels(scores)
    few = [(1, 32, shape[1])] if shape[1] <= geometry.CHUNK else []
    for rows, threads, classes in [*few, (1, 1, 0), (1, 32, 0), (2, 8, 0), (8, 64, 0), (32, 32, 0)]:
        layout = {"rows": rows, "threads": threads, "macros": {"WIDE": wide, "CLASSES": classes}}
        found = same_bits([softmax(scores, label, 0.3, order=order, **layout) for order in ORDERS])
        check_softmax(scores, label, found, 0.3)


# For five classes: several rows share a position's scores, or one thread has them all.
LAYOUTS = [{"rows": 2}, {"rows": 1, "macros": {"CLASSES": 5}}]


@on_host
@pytest.mark.parametrize("weights", [None, "label", "item"])
@pytest.mark.parametrize("class_weights", [None, [0.5, 2, 0, 3, 1]])
@pytest.mark.parametrize("normalization", ["VALID", "FULL", "BATCH_SIZE", "NONE", "WEIGHT_SUM"])
@pytest.mark.parametrize("ignore", [None, 255, 0, -1])
def test_softmax_with_every_option(weights, class_weights, normalization, ignore):
    scores = draw(3, 5, 8)
    label = labels(scores, ignore=ignore)
    weight = {None: None, "label": draw(3, 8, seed=2), "item": draw(3, seed=2)}[weights]
    options = {"weight": weight, "class_weights": class_weights, "normalization": normalization, "ignore_label": ignore}
    for layout in LAYOUTS:
        found = softmax(scores, label, -0.7, **layout, **options)
        check_softmax(scores, label, found, -0.7, **options)


@on_host
@pytest.mark.parametrize(("layout", "classes"), [(LAYOUTS[0], 5), (LAYOUTS[0], 40), (LAYOUTS[1], 5)])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_softmax_of_large_scores_and_of_minus_infinity(layout, classes):
    scores = np.concatenate([1e4 * draw(4, classes, 3), draw(4, classes, 3, seed=3)])
    scores[4:, 1::2] = -np.inf
    scores[5, :] = [[-np.inf]]
    scores[5, 4] = 1
    label = labels(scores)
    label[4:] = 4
    found = softmax(scores, label, **layout)
    check_softmax(scores, label, found)


@on_host
@pytest.mark.parametrize(("classes", "rows"), [(50257, 32), (4000, 1)])
def test_softmax_of_many_classes(classes, rows):
    scores = 5 * draw(2, classes, 1)
    label = labels(scores)
    found = same_bits([softmax(scores, label, rows=rows, threads=32, order=order) for order in ORDERS])
    check_softmax(scores, label, found)


@on_host
def test_softmax_keeps_a_small_loss():
    scores = np.zeros((1, 2, 1), np.float32)
    scores[0, 0] = 15
    label = np.zeros((1, 1), np.float32)
    check_softmax(scores, label, softmax(scores, label))


@on_host
@pytest.mark.parametrize("normalization", ["VALID", "WEIGHT_SUM"])
def test_softmax_without_a_valid_label_is_0_whatever_the_scores(normalization):
    scores = np.full((2, 3, 4), np.nan, np.float32)
    label = np.full((2, 4), 255, np.float32)
    found = softmax(scores, label, ignore_label=255, normalization=normalization)
    assert found["loss"][0] == 0
    assert not found["diff"].any()


WRONG = [-1, -0.5, 2.5, 5, 254, 2**24, 1e20, -1e20, np.nan, np.inf, -np.inf]


@on_host
@pytest.mark.parametrize("layout", LAYOUTS, ids=["rows", "registers"])
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_labels_touch_nothing_and_the_first_is_reported(wrong, layout):
    scores = draw(3, 5, 8)
    label = labels(scores)
    label[1, 2] = wrong
    label[2, 7] = 99
    options = {"ignore_label": 255, "class_weights": [1, 2, 3, 4, 5], **layout}
    found = same_bits([softmax(scores, label, order=order, **options) for order in ORDERS])
    assert found["wrong"][0] == 1 + 10  # position (1, 2)
    np.testing.assert_equal(found["wrong"][1:].view(np.float32)[0], np.float32(wrong))
    ignored = label.copy()
    ignored[1, 2] = ignored[2, 7] = 255
    expected = softmax(scores, ignored, **options)
    for name in ("loss", "diff", "prob"):
        np.testing.assert_array_equal(found[name], expected[name])


@on_host
@pytest.mark.parametrize("wrong", WRONG)
def test_backward_reports_a_label_that_forward_has_not_seen(wrong):
    scores = draw(3, 5, 8)
    label = labels(scores)
    label[1, 2] = wrong
    for order in ORDERS:
        found = softmax(scores, label, order=order, forward=False)
        assert found["wrong"][0] == 11
        np.testing.assert_equal(found["wrong"][1:].view(np.float32)[0], np.float32(wrong))


# The passes over memory, which are what a kernel's time goes by


@pytest.fixture
def traffic(monkeypatch):
    """What the kernels read and write from now on: a dict from kernel to what `host_kernels.traffic` gives."""
    found = {}

    def count(of, variant, kernel, blocks, threads, order, values):
        found[kernel] = host_kernels.traffic(of, variant, kernel, blocks, threads, values)

    monkeypatch.setattr(sys.modules[__name__], "call", count)
    return found


ONCE_READ, ONCE_WRITTEN, UNTOUCHED = (1, 0), (0, 1), (0, 0)


@on_host
@pytest.mark.parametrize("wanted", [{}, {"prob"}])
@pytest.mark.parametrize(("classes", "rows", "registers"), [(21, 1, 0), (70, 4, 0), (5, 1, 5)])
def test_softmax_reads_and_writes_each_score_once_and_for_prob_once_more(classes, rows, registers, wanted, traffic):
    scores = draw(2, classes, 64)
    softmax(scores, labels(scores), rows=rows, macros={"CLASSES": registers}, wanted=wanted)
    forward, backward = traffic["forward"], traffic["backward"]
    kept = UNTOUCHED if registers else ONCE_WRITTEN
    if "prob" in wanted:
        assert (forward["scores"], forward["prob"]) == (ONCE_READ if registers else (2, 0), ONCE_WRITTEN)
    else:
        assert forward["scores"] == ONCE_READ
    assert (forward["label"], forward["kept"]) == ((rows, 0), kept)  # the rows of a position share its label
    assert (backward["scores"], backward["label"]) == (ONCE_READ, (rows, 0))
    assert backward["kept"] == (UNTOUCHED if registers else (rows, 0))
    read, written = backward["scores_diff"]
    assert read == 0
    assert written == pytest.approx(1 + 1 / classes)  # that of the label's class again, with its digits


@on_host
@pytest.mark.parametrize(
    ("pred", "target", "rows", "segments"), [(3, 1, 1, 1), (30, 10, 2, 1), (10, 30, 1, 1), (64, 64, 2, 2)]
)
def test_channel_sum_reads_each_blob_once_and_backward_none(pred, target, rows, segments, traffic):
    channel_sum(draw(2, pred, 64), draw(2, target, 64), rows=rows, segments=segments)
    forward, backward = traffic["forward"], traffic["backward"]
    assert (forward["pred"], forward["target"], forward["kept"]) == (ONCE_READ, ONCE_READ, ONCE_WRITTEN)
    assert (backward["pred"], backward["target"]) == (UNTOUCHED, UNTOUCHED)
    assert backward["kept"] == (rows * segments, 0)
    assert (backward["pred_diff"], backward["target_diff"]) == (ONCE_WRITTEN, ONCE_WRITTEN)


@on_host
def test_euclidean_reads_and_writes_each_number_once(traffic):
    euclidean(draw(5, 67), draw(5, 67, seed=1), draw(5, 67, seed=2))
    for name in ("pred", "target", "weight"):
        assert traffic["forward"][name] == traffic["backward"][name] == ONCE_READ
    assert traffic["backward"]["pred_diff"] == traffic["backward"]["target_diff"] == ONCE_WRITTEN


# What is installed


def test_the_kernels_are_in_what_pip_installs(tmp_path):
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    shutil.copytree(ROOT / "pylayers", tmp_path / "pylayers")
    for name in ("setup.py", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", "built"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    built = tmp_path / "built"
    found = {str(path.relative_to(built)) for path in built.glob("**/*.cu")}
    losses = {f"pylayers/losses/{name}/kernels.cu" for name in ALL}
    assert found == {"pylayers/runtime/common.cu", *losses}


# What these tests themselves see


@on_host
@pytest.mark.parametrize("number", [0, 1, 2, 4, 5])  # 3 shows only where blocks run at the same time
def test_the_host_sees_a_missing_syncthreads(number, monkeypatch):
    """Each __syncthreads of common.cu is there for a reason: without it, results depend on the order of threads."""
    pieces = SOFTMAX.source.split("__syncthreads();")
    assert len(pieces) == 7
    source = "__syncthreads();".join(pieces[: number + 1]) + "__syncthreads();".join(pieces[number + 1 :])
    macros = tuple(sorted({**SOFTMAX.macros, "WIDE": 0, "CLASSES": 0}.items()))
    broken = host_kernels.library(source, macros)
    monkeypatch.setattr(host_kernels, "library", lambda source, macros: broken)
    scores = draw(9, 21, 3)
    with pytest.raises((AssertionError, RuntimeError), match=r"loss|diff|prob|different barriers"):
        same_bits([softmax(scores, labels(scores), rows=8, threads=32, order=order) for order in ORDERS])


def run_again(names, **environment):
    """Runs tests of this file again, with other options for g++."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", names]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout


@on_host
@pytest.mark.parametrize("ulps", [2, -2])
def test_results_are_as_close_with_the_arithmetic_of_a_gpu(ulps):
    """The tests above again: multiply and add in one rounding, no denormals, an exp and a log1p that are 2 ulp off.

    That is what CUDA's guide allows expf; log1pf may be 1 ulp off. The test with weights of both signs is left out,
    as their losses cancel each other.
    """
    if "fma" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor cannot multiply and add in one rounding")
    flags = f"-mfma -ffp-contract=fast -DGPU_ARITHMETIC={ulps}"
    run_again(
        "every_layout or many_classes or small or large or test_channel_sum or test_euclidean", HOST_KERNELS_FLAGS=flags
    )


def asan():
    """Where libasan is; skips the test where it is not."""
    if host_kernels.COMPILER is None:
        pytest.skip("there is no g++")
    found = subprocess.run(
        [host_kernels.COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout
    if not os.path.isabs(found.strip()):
        pytest.skip("g++ has no libasan")
    return os.path.realpath(found.strip())


def test_nothing_is_read_or_written_out_of_bounds():
    """The tests above again, with AddressSanitizer in the kernels and around NumPy's arrays."""
    library = asan()
    names = "euclidean or channel_sum or every_option or wrong or large_scores or reports or wanted"
    run_again(
        f"not nvrtc and not once and ({names})",
        LD_PRELOAD=library,
        ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=0",
        HOST_KERNELS_FLAGS="-fsanitize=address -fno-omit-frame-pointer",
    )
