"""KernelLossLayer: a loss with CUDA kernels of its own.

The kernels of a loss are ``forward`` and ``backward``, each with one argument, a ``struct Params``. They work on
Caffe's own memory. Neither they nor the code here wait for the GPU, or copy between it and the host.
"""

from typing import NamedTuple

from pylayers.layer import LossLayer
from pylayers.runtime import gpu
from pylayers.runtime.kernels import Launcher


class Plan(NamedTuple):
    """How to launch a loss's kernels for the shapes and options of a layer.

    Attributes:
        tiles: the number of blocks of `geometry.THREADS` threads that would do the work in one turn each.
        macros: what this variant of the kernels is compiled with, a dict from name to int.
        fields: the values of those fields of Params that are numbers, a dict.
        kept: the number of float32 that ``forward`` leaves for ``backward`` in the field ``kept``; or 0.
    """

    tiles: int
    macros: dict
    fields: dict
    kept: int = 0


class KernelLossLayer(LossLayer):
    """A loss whose GPU code is CUDA kernels.

    A field of ``struct Params`` that has the name of a bottom or a top gets the address of its data. A field
    ``<bottom>_diff`` gets that of its diff, and ``loss_weight`` that of the loss's diff. All are 0 for what is not
    there or not wanted. ``scratch`` gets the layer's own memory on the GPU, ``kept`` that in which ``forward`` leaves
    numbers for ``backward``. A subclass gives the numbers in `plan`, and those that change from launch to launch in
    `numbers`.

    Attributes:
        KERNELS: a `pylayers.runtime.kernels.Kernels`.
        NEEDS_FORWARD: whether ``backward`` takes something that ``forward`` has left.
        terms: what Z is made of, as `divisor` takes it, for the field ``normalizer``; None where there is none.
    """

    KERNELS = None
    NEEDS_FORWARD = False
    terms = None

    def plan(self, processors):
        """The `Plan` for ``self.shapes`` and ``self.options`` on a GPU with that many multiprocessors."""
        raise NotImplementedError(f"{type(self).__name__} needs a method plan(self, processors)")

    def numbers(self, kernel, bottom):
        """The values of fields of Params for a launch of a kernel on those bottoms, a dict."""
        return {} if self.terms is None else {"normalizer": self.divisor(self.terms)}

    def constant_pointers(self):
        """Addresses for fields of Params that no blob has: a dict. Called once for each GPU, which is current."""
        return {}

    def before_launch(self):
        """Called at the start of forward and of backward."""

    def setup(self, bottom, top):
        """As in `LossLayer`."""
        super().setup(bottom, top)
        self._launchers, self._forward_ran = {}, False

    def reshape(self, bottom, top):
        """As in `LossLayer`."""
        super().reshape(bottom, top)
        self._forward_ran = False

    def forward_gpu(self, bottom, top):
        """Launches the kernel ``forward``; the CPU code where there is no usable CuPy."""
        backend = gpu.backend
        if backend.cupy is None:
            self.run_forward_cpu(bottom, top)
            return
        self.before_launch()
        with backend.device_of(top[0]) as device:
            tops = self._addresses(("loss", *self.OPTIONAL_TOPS), top)
            self._launch("forward", device, bottom, tops)

    def backward_gpu(self, top, propagate_down, bottom):
        """Launches the kernel ``backward``; the CPU code where there is no usable CuPy."""
        backend = gpu.backend
        if backend.cupy is None:
            self.run_backward_cpu(top, propagate_down, bottom)
            return
        self.before_launch()
        with backend.device_of(bottom[0]) as device:
            wanted = self.wanted_gradients(propagate_down, bottom, backend.clear_diff)
            if True not in wanted:
                return
            if self.NEEDS_FORWARD and not self._forward_ran:
                self._launch("forward", device, bottom, {})
            diffs = {
                f"{name}_diff": backend.diff_pointer(bottom[index])
                for index, name in enumerate(self.bottom_names()[: len(bottom)])
                if wanted[index]
            }
            self._launch("backward", device, bottom, {**diffs, "loss_weight": backend.diff_pointer(top[0])})

    def _launch(self, kernel, device, bottom, pointers):
        data = self._addresses(self.bottom_names(), bottom)
        self.launcher(device).launch(kernel, {**data, **pointers}, self.numbers(kernel, bottom))
        self._forward_ran = self._forward_ran or kernel == "forward"

    def launcher(self, device):
        """The `Launcher` of this layer on a GPU, which is current, ready for the shapes that the layer has now."""
        if device not in self._launchers:
            self._launchers[device] = Launcher(self.KERNELS, device, self.constant_pointers())
        launcher = self._launchers[device]
        if launcher.shapes != self.shapes:
            launcher.set(self.plan(launcher.processors), self.shapes)
        return launcher

    def launchers(self):
        """The launchers of all GPUs that this layer has run on."""
        return self._launchers.values()

    @staticmethod
    def _addresses(names, vector):
        return {name: gpu.backend.data_pointer(vector[index]) for index, name in enumerate(names[: len(vector)])}
