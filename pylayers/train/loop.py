"""The loop of `Solver::Solve`, with display, tests and snapshots, over one rank or several."""

import sys

import numpy as np

from pylayers.errors import UserError
from pylayers.train import data, gradients, snapshots
from pylayers.train.display import Display
from pylayers.train.losses import Smoothed, first_nan, forward, layer_with_nan, losses_of, outputs, total_loss
from pylayers.train.requests import NONE, SNAPSHOT, STOP
from pylayers.train.testing import SharedTest


class Training:
    """One training of a solver.

    The ranks' gradients are averaged before each update, and the kit's losses are divided by Z of all ranks. So N ranks
    with a batch of B train as one with a batch of N·B.
    """

    def __init__(self, solver, param, net, ranks, signals, options, numbers):
        """Prepares it.

        Args:
            solver: a solver of `solver.make`, restored where it goes on from a snapshot.
            param: the SolverParameter that the user wrote.
            net: the NetParameter of the train net.
            ranks: a `Ranks`.
            signals: a function that gives what signals have asked for since it was called last, flags of `requests`.
            options: an object with ``is_gpu``, ``same_data``, ``allow_nan`` and ``timing``, all bools; and with
                ``snapshot``, the one that the training goes on from, or None.
            numbers: a context manager for tests. With several ranks, the last is through with an epoch one batch before
                the others. So tests that draw from C's rand() would part them; there they have numbers of their own.
        """
        self._solver, self._net, self._param, self._ranks, self._signals = solver, solver.net, param, ranks, signals
        self._name, self._options, self._start, self._numbers = net.name, options, solver.iter, numbers
        self._display = Display(param, ranks, solver.iter)
        self._smoothed = Smoothed(param.average_loss, solver.iter)
        self._tests = [SharedTest(net, count, ranks) for net, count in zip(solver.test_nets, param.test_iter)]
        self._losses, self._pass_losses = losses_of(solver.net), []
        self._asked, self._is_in_step = NONE, False
        self._last_snapshot, self._saved_at = options.snapshot, None
        ranks.gather(None)  # before the first sum: a rank that has failed would wait here
        ranks.is_training = True
        self._average = gradients.start(solver, net, ranks, options.is_gpu)
        if param.iter_size > 1:
            last = len(solver.net.layers) - 1
            solver.net.after_forward(lambda layer: self._note_pass() if layer == last and self._is_in_step else None)
        self._first = data.FirstBatch(solver.net) if ranks.count > 1 and not options.same_data else None
        solver.add_callback(self._begin, self._have_gradients)

    def run(self):
        """Trains up to max_iter, or until a signal stops it; logs what Caffe does.

        Raises:
            UserError: the loss is NaN, or ranks get the same data.
        """
        try:
            self._run()
        except Exception:
            if self._last_snapshot:
                print(f"The last whole snapshot is {self._last_snapshot}", file=sys.stderr)
            raise

    def _run(self):
        param, solver, say = self._param, self._solver, self._display.say
        say(f"Solving {self._name}")
        say(f"Learning Rate Policy: {param.lr_policy}")
        while solver.iter < param.max_iter and not self._asked & STOP:
            if self._is_due(param.test_interval) and (solver.iter or param.test_initialization):
                self._test_all()
                if self._asked & STOP:
                    break
            solver.step(1)
            if self._is_due(param.snapshot) or self._asked & SNAPSHOT:
                self._snapshot()
        if param.snapshot_after_train and self._saved_at != solver.iter:
            self._snapshot()
        self._display.traffic(solver.iter, list(self._net._layer_names) if self._options.timing else [])
        if self._asked & STOP:
            say("Optimization stopped early.")
            return
        if self._is_due(param.display):
            forward(self._net)
            loss, _ = self._over_ranks(total_loss(self._losses))
            self._smoothed.add(loss, solver.iter)
            say(f"Iteration {solver.iter}, loss = {self._smoothed.value:g}")
        if self._is_due(param.test_interval):
            self._test_all()
        say("Optimization Done.")

    def _is_due(self, interval):
        return interval > 0 and self._solver.iter % interval == 0

    def _over_ranks(self, loss=0.0):
        """The mean of the ranks' losses, and all that signals have asked of them, by one sum."""
        asked = self._signals()
        if self._ranks.count == 1:
            return loss, asked
        flags = (SNAPSHOT, STOP)
        sums = np.array([loss, *(bool(asked & flag) for flag in flags)], np.float64)
        self._ranks.add(sums, "losses")
        return np.float32(sums[0] / self._ranks.count), sum(flag for flag, count in zip(flags, sums[1:]) if count)

    def _begin(self):
        """Called by Caffe before the first forward of an iteration."""
        self._pass_losses.clear()
        self._is_in_step = True

    def _note_pass(self):
        loss = total_loss(self._losses)
        if np.isnan(loss) and not self._options.allow_nan:
            raise UserError(
                f"the loss is NaN in iteration {self._solver.iter}: {first_nan(self._net)}; --allow-nan goes on"
            )
        self._pass_losses.append(loss)

    def _have_gradients(self):
        """Called by Caffe between backward and the update."""
        iteration, self._is_in_step = self._solver.iter, False
        if iteration == self._start and self._first:
            self._first.check(self._ranks)
        if not self._pass_losses:
            self._note_pass()
        self._average()
        loss = np.float32(0)
        for each in self._pass_losses:
            loss += each
        loss, self._asked = self._over_ranks(loss / np.float32(len(self._pass_losses)))
        self._smoothed.add(loss, iteration)
        if self._is_due(self._param.display):
            self._display.iteration(iteration, self._smoothed.value, self._outputs(), self._solver.lr)
        self._display.progress(iteration, loss, self._solver.lr)

    def _outputs(self):
        found = outputs(self._net)
        if self._ranks.count == 1:
            return found
        means = []
        for name, weight, values in found:
            total = values.copy()
            self._ranks.add(total, "display")
            means.append((name, weight, total / self._ranks.count))
        return means

    def _test_all(self):
        """As Solver::TestAll."""
        self._average_batch_norm()
        for number, (test, net) in enumerate(zip(self._tests, self._solver.test_nets)):
            self._display.say(f"Iteration {self._solver.iter}, Testing net (#{number})")
            net.share_with(self._net)
            with self._numbers():
                found = test.run(self._is_stopped)
            if found is None:
                self._display.say("Test interrupted.")
                return
            loss, means = found
            if self._param.test_compute_loss:
                self._display.say(f"Test loss: {loss:g}")
            self._display.outputs("Test", means)

    def _is_stopped(self):
        _, self._asked = self._over_ranks()
        if self._asked & SNAPSHOT:
            self._snapshot()
        return bool(self._asked & STOP)

    def _snapshot(self):
        layer = None if self._options.allow_nan else layer_with_nan(self._net)
        if layer:
            raise UserError(
                f'the parameters of layer "{layer}" are NaN after iteration {self._solver.iter - 1}, and no snapshot '
                "of them is written; --allow-nan goes on"
            )
        self._average_batch_norm()
        name = snapshots.save(self._solver, self._param) if self._ranks.number == 0 else ""
        self._last_snapshot, self._saved_at = self._ranks.gather(name)[0], self._solver.iter

    def _average_batch_norm(self):
        """Each rank's running sums are those of its own batches, until a test or a snapshot wants one net."""
        if self._ranks.count == 1:
            return
        for name, layer in zip(self._net._layer_names, self._net.layers):
            for blob in layer.blobs if layer.type == "BatchNorm" else ():
                self._ranks.add(blob.data, name)
                blob.data[...] /= self._ranks.count
