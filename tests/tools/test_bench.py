"""`pylayers bench`: what it times and what it writes. Nothing here depends on the clock."""

import json
import math
import sys

import numpy as np
import pytest

from pylayers.tools import cli
from pylayers.tools.bench import cpu as bench
from pylayers.tools.bench import pytorch
from pylayers.tools.twins import PAIRS, Case

SMALL = (
    Case("euclidean", (4, 10)),
    Case("softmax", (4, 10)),
    Case("softmax", (100, 1000)),
    Case("channel-sum", (4, 3, 5, 5), target=(4, 1, 5, 5)),
    Case("channel-sum-all", (4, 3, 5, 5), target=(4, 1)),
    Case("softmax-weights", (4, 3), {"class_weights": [1.0, 2.0, 0.5]}),
    Case("smooth-l1", (4, 10)),
    Case("l1", (4, 10)),
    Case("sigmoid", (4, 10)),
    Case("triplet", (4, 10)),
)
ALONE = (
    Case("focal-gamma", (4, 10)),
    Case("focal-gamma", (4, 10), {"activation": "SIGMOID"}),
    Case("dice", (4, 3, 5)),
    Case("dice", (4, 1, 5), {"activation": "SIGMOID"}),
)


@pytest.fixture
def few(monkeypatch):
    """Small cases, and no copy of a large array."""
    monkeypatch.setattr(bench, "CASES", (*SMALL, *ALONE))
    monkeypatch.setattr(bench, "COPY_BYTES", 2**20)
    monkeypatch.setattr(bench, "CALLS_SECONDS", 0)


def test_result_as_json_and_plot(few, tmp_path, capsys):
    files = {kind: tmp_path / f"bench.{kind}" for kind in ("json", "png")}
    assert cli.main(["bench", "--repeat", "3", "--json", str(files["json"]), "--plot", str(files["png"])]) == 0
    result = json.loads(files["json"].read_text())
    assert [row["shape"] for row in result["rows"]] == [list(case.shape) for case in (*SMALL, *ALONE)]
    for row in result["rows"][len(SMALL) :]:
        assert row["ratio"] is row["overhead_us"] is None
        assert row["total_us"]["python"] > 0
    for row in result["rows"][: len(SMALL)]:
        for side in ("python", "builtin"):
            for kind in ("forward", "backward"):
                times = row[side][kind]
                assert 0 < times["lower_quartile_us"] <= times["median_us"] <= times["upper_quartile_us"]
        total = row["total_us"]
        assert row["ratio"] == pytest.approx(total["python"] / total["builtin"])
        assert row["overhead_us"] == pytest.approx(total["python"] - total["builtin"])
        assert row["gb_per_s"] == pytest.approx(sum(row["bytes"].values()) / total["python"] / 1e3)
        assert row["roofline"] == pytest.approx(row["gb_per_s"] / result["copy_gb_per_s"])
    (counted,) = (row for row in result["rows"] if row["in_mean"])
    assert counted["shape"] == [100, 1000]
    assert result["geometric_mean"] == pytest.approx(counted["ratio"])
    machine = result["machine"]
    assert set(machine["blas_threads"]) == {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"}
    assert {"kind", "cpu", "cores", "threads", "python", "numpy", "caffe", "date"} <= set(machine)
    assert files["png"].read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert sorted(tmp_path.iterdir()) == sorted(files.values())
    assert "4×3×5×5" in capsys.readouterr().out


def test_layer_chooses(few, tmp_path):
    path = tmp_path / "bench.json"
    assert cli.main(["bench", "--layer", "euclidean", "--repeat", "1", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert [row["pair"] for row in result["rows"]] == ["euclidean"]
    assert result["geometric_mean"] is None


def test_geometric_mean_of_eight_of_the_ten_shapes():
    counted = [case for case in bench.CASES if case.pair in bench.MEAN_PAIRS and math.prod(case.shape) >= 100_000]
    assert len(counted) == 8
    without = {"softmax-two", "smooth-l1-weights", "focal", "focal-sigmoid"}
    assert {case.pair for case in bench.CASES} == set(PAIRS) - without
    for pair in ("euclidean", "softmax"):
        assert Case(pair, (1, 1000)) in bench.CASES


def test_bytes_moved():
    assert bench.bytes_moved(Case("euclidean", (10, 100))) == (8000, 12000)
    assert bench.bytes_moved(Case("softmax", (10, 100))) == (4040, 8040)
    assert bench.bytes_moved(Case("channel-sum", (10, 3, 5, 5), target=(10, 1, 5, 5))) == (4000, 4000)
    assert bench.bytes_moved(Case("channel-sum-all", (10, 3, 5, 5), target=(10, 1))) == (3040, 3040)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.pair} {case.shape}")
def test_times_the_layers_of_the_loss_alone(case):
    builtin = {
        "channel-sum": "Convolution Convolution EuclideanLoss",
        "channel-sum-all": "Reduction Reduction EuclideanLoss",
        "smooth-l1": "Eltwise AbsVal Split Power ReLU Split Eltwise Power Eltwise Reduction",
        "l1": "Eltwise Reduction",
        "sigmoid": "SigmoidCrossEntropyLoss",
        # An Input layer copies nothing; Caffe puts the anchor's Split before the other bottoms.
        "triplet": "Split Input Input Eltwise Reduction Eltwise Reduction Eltwise Power ReLU Reduction",
    }.get(case.pair, PAIRS[case.pair].builtin)
    expected = {"python": ["Python"], "builtin": builtin.split()}
    for side, calls in bench.caffe_calls(case).items():
        net, (first, last) = calls["forward"].func.__self__, calls["forward"].args
        assert [layer.type for layer in net.layers][first : last + 1] == expected[side]
        assert calls["backward"].args == (last, first)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.pair} {case.shape}")
def test_backward_gives_the_learnt_bottom_a_gradient_and_no_other(case, tmp_path):
    for calls in bench.caffe_calls(case).values():
        net = calls["backward"].func.__self__
        learnt, *_, constant = PAIRS[case.pair].build(case, tmp_path).bottoms
        calls["backward"]()
        assert net.blobs[learnt].diff.any()
        assert not net.blobs[constant].diff.any()


@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.pair} {case.shape}")
def test_both_sides_compute_the_same(case):
    nets = [calls["forward"].func.__self__ for calls in bench.caffe_calls(case).values()]
    losses = [float(net.blobs["loss"].data) for net in nets]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_sides_take_turns_and_so_do_forward_and_backward(few, monkeypatch):
    order = []
    calls = {
        side: {kind: lambda name=f"{side} {kind}": order.append(name) for kind in ("forward", "backward")}
        for side in ("python", "builtin")
    }
    monkeypatch.setattr(bench, "caffe_calls", lambda _: calls)
    times = bench.time_case(SMALL[0], 3)
    one_round = ["python forward", "python backward", "builtin forward", "builtin backward"]
    assert order[-12:] == one_round * 3
    assert len(times["python"]["forward"]) == 3


@pytest.mark.parametrize("case", [*SMALL, *ALONE], ids=lambda case: f"{case.pair} {case.shape}")
def test_torch_runs_forward_and_backward(case):
    torch = pytest.importorskip("torch")
    if case.pair not in pytorch.LOSSES:
        assert pytorch.call(torch, case) is None
        return
    pytorch.call(torch, case)()
    leaves, loss = pytorch.LOSSES[case.pair](torch, case, "cpu")
    assert loss().item() > 0
    assert leaves[0].shape == case.shape


def test_without_torch_there_is_no_column_for_it(few, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["bench", "--layer", "euclidean", "--repeat", "1"]) == 0
    assert "PyTorch is not installed: no column for it" in capsys.readouterr().out
