"""`pylayers bench --device gpu`: what each loss layer costs on a GPU, beside its built-in twin and PyTorch.

Each call is timed by CUDA events, after the GPU's cache has been filled with other data.

``alone``: the layers of the loss are called through pycaffe, one call at a time, and the GPU is idle before each.
Caffe's own layers and its sum of the losses wait for the GPU, so there is no other way to measure them. The time
includes the host's microseconds, as training does where the GPU is done before the host is.

``queued``: the layer's forward or backward is called behind a kernel that keeps the GPU busy, so that the host is far
ahead. That gives the time of the kernels. The bandwidth is computed from it and from the bytes that
`bench.cpu.bytes_moved` counts. PyTorch is timed in both ways.

``warm``: as ``queued``, with whatever the call before has left in the cache. PyTorch as torch.compile compiles it is
timed as ``queued``, for the large blobs.

Ctrl-C ends the measurement; what has been measured is printed and written.
"""

import functools
import statistics
import time

import numpy as np

from pylayers.caffe_nets import child
from pylayers.errors import UserError, first_line
from pylayers.runtime import gpu as runtime_gpu
from pylayers.runtime.tiles import thread_count
from pylayers.tools import device, report
from pylayers.tools.bench import cpu as bench
from pylayers.tools.bench import pytorch
from pylayers.tools.twins import PAIRS, Case

# These take 16 MB and more.
LARGE = (
    Case("euclidean", (32, 64, 128, 128)),
    Case("softmax", (8192, 1000)),
    Case("softmax", (16, 21, 256, 256)),
    Case("softmax", (8, 2, 512, 512)),
    Case("channel-sum", (16, 32, 128, 128), target=(16, 32, 128, 128)),
    Case("channel-sum", (16, 3, 512, 512), target=(16, 1, 512, 512)),
    # The vocabulary of GPT-2. Last, since its blobs take 0.8 GB each, and Caffe ends the process where memory is short.
    Case("softmax", (4096, 50257)),
)
# InfogainLoss has no GPU code.
CASES = (*(case for case in bench.CASES if case.pair != "softmax-weights"), *LARGE)
INTERRUPTED = 130  # the exit status that shells give for Ctrl-C
HOST_ELEMENTS = 10_000  # up to this size a blob is small, and the host's time is shown
COPY_BYTES = 2**30
FLUSH_BYTES = 2**28
QUEUE = 10  # calls behind one busy kernel
# Some 20 ms at a GPU's clock of over 10⁹ cycles a second, in which the host makes QUEUE calls with ease.
BUSY_CYCLES = 3 * 10**7
# Memory that is only read: what a memset leaves in the cache is still to be written, at the cost of what comes next.
READ = r"""
extern "C" __global__ void read(const float4* from, long long count, float* to) {
  float sum = 0;
  long long step = gridDim.x * (long long)blockDim.x;
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count; i += step) {
    float4 x = from[i];
    sum += x.x + x.y + x.z + x.w;
  }
  if (sum == 1) *to = sum;  // never: all are 0
}
"""
READ_BLOCKS, READ_THREADS = 1024, 256
BUSY = r"""
extern "C" __global__ void busy(long long cycles) {
  long long start = clock64();
  while (clock64() - start < cycles) {
  }
}
"""


def run(options):
    """Runs the command on the GPU; `pylayers.tools.bench.run` has the arguments, the result and the errors."""
    child.call(device.use, "gpu", name="--device gpu")
    device.use("gpu")
    if runtime_gpu.backend.cupy is None:
        raise UserError("--device gpu needs a CuPy that can compute on the GPU; the warning above says what is wrong")
    cases = [case for case in CASES if not options.layer or case.pair in options.layer]
    with report.result_files(options) as (json_file, plot_file):
        result = measure(cases, options.repeat)
        _print(result)
        report.write_json(json_file, result)
        if plot_file:
            bench.plot(plot_file, result["rows"])
    return 0 if len(result["rows"]) == len(cases) else INTERRUPTED


def measure(cases, repeat):
    """Times cases.

    Args:
        cases: a list of `Case`.
        repeat: the number of rounds.

    Returns:
        A dict for JSON: ``rows``, one for each case, see `_row`, fewer where Ctrl-C came in between;
        ``copy_gb_per_s``, ``machine``, ``gpu``.
    """
    torch = pytorch.import_torch(thread_count())
    timer = Timer(repeat)
    bandwidth = timer.copy_bandwidth()
    rows = []
    try:
        for case in cases:
            rows.append(_row(case, timer, torch, bandwidth))
            if torch:
                torch.cuda.empty_cache()  # Caffe needs the memory
    except KeyboardInterrupt:
        if not rows:
            raise
    return {
        "rows": rows,
        "repeat": repeat,
        "copy_gb_per_s": bandwidth / 1e9,
        "torch": torch and torch.__version__,
        "machine": report.machine(),
        "gpu": gpu(),
    }


def gpu():
    """What the GPU is, and the versions of what drives it: a dict for JSON."""
    cupy = runtime_gpu.backend.cupy
    runtime = cupy.cuda.runtime
    return {
        "name": runtime.getDeviceProperties(runtime.getDevice())["name"].decode(),
        "driver_supports_cuda": runtime.driverGetVersion(),
        "cuda_runtime": runtime.runtimeGetVersion(),
        "cupy": cupy.__version__,
        "driver": _driver_version(),
    }


def _driver_version():
    try:
        with open("/proc/driver/nvidia/version", encoding="ascii") as file:
            return file.readline().strip()
    except OSError:
        return None


class Timer:
    """Times functions that start work on the legacy default stream, by CUDA events; seconds."""

    def __init__(self, repeat):
        self._cupy = runtime_gpu.backend.cupy
        self._repeat = repeat
        self._null = self._cupy.cuda.Stream.null
        self._events = [[self._cupy.cuda.Event() for _ in range(QUEUE)] for _ in range(2)]
        self._flushed, self._read_after = (self._cupy.empty(FLUSH_BYTES, np.uint8) for _ in range(2))
        self._cupy.cuda.runtime.memsetAsync(self._read_after.data.ptr, 0, FLUSH_BYTES, 0)
        self._read = self._cupy.RawKernel(READ, "read")
        self._busy = self._cupy.RawKernel(BUSY, "busy")

    def alone(self, call):
        """The median of calls that begin when the GPU is idle."""
        call()  # a first call, as it allocates or compiles what the later ones use
        return statistics.median(self._alone(call) for _ in range(self._repeat * QUEUE))

    def queued(self, call, warm=False):
        """The median of calls behind a kernel that keeps the GPU busy while they are queued.

        With `warm` the cache has what the call before has left there.
        """
        call()
        return statistics.median(seconds for _ in range(self._repeat) for seconds in self._queued(call, warm))

    def host(self, call):
        """The median of the host's own seconds in calls that do not wait."""
        times = []
        for _ in range(self._repeat):
            call()
            self._null.synchronize()
            for _ in range(QUEUE):  # few enough for the queue, so that none has to wait for a place in it
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
        self._null.synchronize()
        return statistics.median(times)

    def copy_bandwidth(self):
        """Bytes read and written per second by a copy on the GPU."""
        runtime = self._cupy.cuda.runtime
        source, target = (self._cupy.empty(COPY_BYTES, np.uint8) for _ in range(2))

        def copy():
            runtime.memcpyAsync(target.data.ptr, source.data.ptr, COPY_BYTES, runtime.memcpyDeviceToDevice, 0)

        return 2 * COPY_BYTES / self.queued(copy)

    def _alone(self, call):
        self._flush()
        self._null.synchronize()
        self._start(0)
        call()
        self._stop(0)
        return self._seconds(0)

    def _queued(self, call, warm):
        with self._null:
            self._busy((1,), (1,), (BUSY_CYCLES,))
        for index in range(QUEUE):
            if not warm:
                self._flush()
            self._start(index)
            call()
            self._stop(index)
        return [self._seconds(index) for index in range(QUEUE)]

    def _flush(self):
        self._cupy.cuda.runtime.memsetAsync(self._flushed.data.ptr, 1, FLUSH_BYTES, 0)
        with self._null:
            pointers = (
                np.uint64(self._read_after.data.ptr),
                np.int64(FLUSH_BYTES // 16),
                np.uint64(self._flushed.data.ptr),
            )
            self._read((READ_BLOCKS,), (READ_THREADS,), pointers)

    def _start(self, index):
        self._events[0][index].record(self._null)

    def _stop(self, index):
        self._events[1][index].record(self._null)

    def _seconds(self, index):
        self._events[1][index].synchronize()
        return self._cupy.cuda.get_elapsed_time(self._events[0][index], self._events[1][index]) / 1e3


def _layer_calls(net):
    """The Python layer's own forward and backward, without Caffe's sum of the losses."""
    index = list(net._layer_names).index("loss")
    layer, names = net.layers[index], net.bottom_names["loss"]
    bottom, top = [net.blobs[name] for name in names], [net.blobs["loss"]]
    learnt = [index == 0 for index in range(len(names))]
    return {
        "forward": functools.partial(layer.forward, bottom, top),
        "backward": functools.partial(layer.backward, top, learnt, bottom),
    }


def _row(case, timer, torch, bandwidth):
    """One case, a dict for JSON; times in microseconds, medians.

    ``total_us`` is the time of forward and backward for each side, measured alone; ``ratio`` is Python's divided by the
    twin's. ``queued_us`` is the kernels' time for forward and for backward, ``torch_queued_us`` PyTorch's for both
    together; ``ratio_torch`` is the sum of the former divided by the latter. ``compiled_us`` is that of torch.compile;
    None for blobs that are not large, and where it fails, for the reason in ``compile_error``. ``roofline`` is the time
    that the bytes would take at the bandwidth of a copy, as a share of the kernels' time. ``host_us`` is the host's
    time in a call for small blobs, and None for others.
    """
    calls = bench.caffe_calls(case)
    sides = {side: {kind: timer.alone(call) * 1e6 for kind, call in kinds.items()} for side, kinds in calls.items()}
    own = _layer_calls(calls["python"]["forward"].func.__self__)
    queued = {kind: timer.queued(call) * 1e6 for kind, call in own.items()}
    warm = {kind: timer.queued(call, warm=True) * 1e6 for kind, call in own.items()}
    small = np.prod(case.shape) <= HOST_ELEMENTS
    total = {side: sum(kinds.values()) for side, kinds in sides.items()}
    torch_queued = None
    call = torch and pytorch.call(torch, case, "cuda")
    if call:
        total["torch"], torch_queued = timer.alone(call) * 1e6, timer.queued(call) * 1e6
    compiled, compile_error = _compiled(case, timer, torch) if torch and case in LARGE else (None, None)
    moved = dict(zip(bench.KINDS, bench.bytes_moved(case)))
    rate = sum(moved.values()) / sum(queued.values()) * 1e6
    return {
        "pair": case.pair,
        "layer": PAIRS[case.pair].layer,
        "twin": PAIRS[case.pair].builtin,
        "shape": list(case.shape),
        "alone_us": sides,
        "total_us": total,
        "ratio": total["python"] / total["builtin"] if "builtin" in total else None,
        "queued_us": queued,
        "warm_us": warm,
        "torch_queued_us": torch_queued,
        "ratio_torch": torch_queued and sum(queued.values()) / torch_queued,
        "compiled_us": compiled,
        "compile_error": compile_error,
        "host_us": {kind: timer.host(call) * 1e6 for kind, call in own.items()} if small else None,
        "bytes": moved,
        "gb_per_s": rate / 1e9,
        "roofline": rate / bandwidth,
        "roofline_by_kind": {kind: moved[kind] / queued[kind] * 1e6 / bandwidth for kind in bench.KINDS},
    }


def _compiled(case, timer, torch):
    """The kernels' time of what torch.compile makes of a loss, in microseconds; or None, and why it cannot."""
    call = pytorch.call(torch, case, "cuda", compiled=True)
    try:
        return call and timer.queued(call) * 1e6, None
    except Exception as error:  # of many kinds: no compiler, no Triton, a Python that it does not know
        return None, first_line(error)


def _alone(row, side, kind):
    return f"{row['alone_us'][side][kind]:.1f}" if side in row["alone_us"] else "–"


def _print(result):
    rows = []
    for row in result["rows"]:
        host = row["host_us"]
        rows.append(
            [
                row["layer"],
                "×".join(map(str, row["shape"])),
                *(_alone(row, side, kind) for kind in bench.KINDS for side in ("python", "builtin")),
                f"{row['ratio']:.2f}" if row["ratio"] else "–",
                *(f"{row['queued_us'][kind]:.1f}" for kind in bench.KINDS),
                f"{row['gb_per_s']:.0f}",
                f"{row['roofline']:.0%}",
                *(f"{row['warm_us'][kind]:.1f}" for kind in bench.KINDS),
                f"{row['torch_queued_us']:.1f}" if row["torch_queued_us"] else "–",
                f"{row['compiled_us']:.1f}" if row["compiled_us"] else "–",
                f"{row['ratio_torch']:.2f}" if row["ratio_torch"] else "–",
                f"{host['forward']:.0f}, {host['backward']:.0f}" if host else "–",
            ]
        )
    columns = ["layer", "shape", "forward", "Caffe", "backward", "Caffe", "ratio", "kernel f.", "kernel b."]
    report.print_table(
        "Each layer on the GPU, µs (medians)",
        [*columns, "GB/s", "of copy", "warm f.", "warm b.", "PyTorch f. + b.", "compiled", "ratio", "host"],
        rows,
        left=2,
    )
    print(
        f"{result['gpu']['name']}; a copy moves {result['copy_gb_per_s']:.0f} GB/s\n"
        "forward, backward, Caffe: through pycaffe, the GPU idle before each call; kernel, PyTorch: calls that are "
        "queued\nof copy: GB/s of the kernels beside a copy's; warm: of kernels that find their blobs in the cache, as "
        "far as they fit\ncompiled: PyTorch's torch.compile; host: microseconds of the host in forward and backward"
    )
    for error in sorted({row["compile_error"] for row in result["rows"] if row["compile_error"]}):
        print(f"torch.compile failed: {error}")
