"""`pylayers bench --device gpu` without a GPU: that it runs, and what it writes. The times are of the host."""

import functools
import json
import pickle
from types import SimpleNamespace

import caffe
import pytest
from harness import host_kernels

from pylayers.caffe_nets import child
from pylayers.runtime import blobs, gpu
from pylayers.tools import cli
from pylayers.tools.bench import cpu as bench
from pylayers.tools.bench import gpu as gpu_bench
from pylayers.tools.bench import pytorch
from pylayers.tools.twins import Case

SMALL = (
    Case("euclidean", (4, 10)),
    Case("softmax", (40, 300)),
    Case("channel-sum", (4, 3, 5, 5), target=(4, 1, 5, 5)),
    Case("channel-sum-all", (4, 3, 5, 5), target=(4, 1)),
    Case("smooth-l1", (4, 10)),
    Case("focal-gamma", (4, 10)),
)


def ended(status, question, answer, log, *more):
    """In place of a child process that tries GPU mode out."""
    log.touch()
    if not status:
        answer.write_bytes(pickle.dumps({"found": None}))
    return status


@pytest.fixture
def small(monkeypatch):
    if host_kernels.COMPILER is None:
        pytest.skip("there is no g++ to compile the kernels with")
    monkeypatch.setattr(gpu, "backend", host_kernels.HostGpu())
    monkeypatch.setattr(blobs, "CUDA_BUILD", True)
    monkeypatch.setattr(blobs, "GPU_ADDRESSES", True)
    monkeypatch.setattr(child, "run_child", functools.partial(ended, 0))
    for name in ("set_device", "set_mode_gpu"):
        monkeypatch.setattr(caffe, name, lambda *arguments: None, raising=False)
    monkeypatch.setattr(gpu_bench, "CASES", SMALL)
    monkeypatch.setattr(gpu_bench, "COPY_BYTES", 2**16)
    monkeypatch.setattr(gpu_bench, "FLUSH_BYTES", 2**10)
    monkeypatch.setattr(pytorch, "import_torch", lambda threads: None)
    return gpu.backend.cupy


def test_result_as_json_and_plot(small, tmp_path, capsys):
    files = {kind: tmp_path / f"bench.{kind}" for kind in ("json", "png")}
    options = ["--repeat", "1", "--json", str(files["json"]), "--plot", str(files["png"])]
    assert cli.main(["bench", "--device", "gpu", *options]) == 0
    result = json.loads(files["json"].read_text())
    assert [row["shape"] for row in result["rows"]] == [list(case.shape) for case in SMALL]
    for row in result["rows"]:
        if row["pair"] != "focal-gamma":
            assert row["ratio"] == pytest.approx(row["total_us"]["python"] / row["total_us"]["builtin"])
        kernels = sum(row["queued_us"].values())
        assert row["gb_per_s"] == pytest.approx(sum(row["bytes"].values()) / kernels / 1e3)
        assert row["roofline"] == pytest.approx(row["gb_per_s"] / result["copy_gb_per_s"])
        assert (row["host_us"] is None) == (row["shape"] == [40, 300])
    assert {"name", "driver", "cuda_runtime", "cupy"} <= set(result["gpu"])
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert "40×300" in capsys.readouterr().out


def test_ctrl_c_keeps_what_has_been_measured(small, tmp_path, monkeypatch):
    def row(case, *arguments):
        if case == SMALL[1]:
            raise KeyboardInterrupt
        return _row(case, *arguments)

    _row = gpu_bench._row
    monkeypatch.setattr(gpu_bench, "_row", row)
    assert cli.main(["bench", "--device", "gpu", "--repeat", "1", "--json", str(tmp_path / "bench.json")]) == 130
    assert [each["pair"] for each in json.loads((tmp_path / "bench.json").read_text())["rows"]] == ["euclidean"]


@pytest.mark.parametrize("works", [True, False])
def test_torch_compile_is_timed_or_the_reason_said(works, small, monkeypatch, capsys):
    """PyTorch is no part of what the tests install: here it is nothing but a function that is called, or raises."""

    def call(torch, case, device, compiled=False):
        def run():
            if compiled and not works:
                raise RuntimeError("no Triton here\nmore")

        return run

    torch = SimpleNamespace(__version__="2", cuda=SimpleNamespace(empty_cache=lambda: None))
    monkeypatch.setattr(pytorch, "import_torch", lambda threads: torch)
    monkeypatch.setattr(pytorch, "call", call)
    monkeypatch.setattr(gpu_bench, "LARGE", SMALL[:1])
    result = gpu_bench.measure(SMALL[:2], 1)
    first, second = ((row["compiled_us"], row["compile_error"]) for row in result["rows"])
    assert second == (None, None)
    assert (first[0] is not None, first[1]) == ((True, None) if works else (False, "no Triton here"))
    gpu_bench._print(result)
    assert ("torch.compile failed: no Triton here" in capsys.readouterr().out) != works


def test_the_layers_own_calls_give_one_gradient(small):
    for case in SMALL[:4]:  # those with kernels
        net = bench.caffe_calls(case)["python"]["forward"].func.__self__
        small.launches.clear()
        for call in gpu_bench._layer_calls(net).values():
            call()
        assert [name for name, _, _ in small.launches] == ["forward", "backward"]
        learnt, constant = ("scores", "label") if "scores" in net.blobs else ("pred", "target")
        assert net.blobs[learnt].diff.any()
        assert not net.blobs[constant].diff.any()


def test_without_a_cuda_build_it_says_so(capsys):
    if blobs.CUDA_BUILD:
        pytest.skip("this Caffe is built for CUDA")
    assert cli.main(["bench", "--device", "gpu"]) == 2
    assert "this Caffe is built for the CPU alone" in capsys.readouterr().err


def test_a_machine_without_a_gpu_is_one_line(small, monkeypatch, capsys):
    monkeypatch.setattr(child, "run_child", functools.partial(ended, 6))  # as Caffe does where there is no driver
    assert cli.main(["bench", "--device", "gpu"]) == 2
    assert capsys.readouterr().err == "pylayers bench: --device gpu: Caffe ended the process with status 6\n"
