"""The loop of `Solver::Solve`, with display, tests and snapshots, over one rank or several."""

import time

import caffe
import numpy as np

from pylayers.train import snapshots
from pylayers.train.solver import net_name, parameters

# What a signal asks for; of several ranks' requests the largest counts.
REQUESTS = ("none", "snapshot", "stop")
SNAPSHOT, STOP = map(REQUESTS.index, REQUESTS[1:])


class Training:
    """One training of a solver.

    The ranks' gradients are averaged before each update. So N ranks with a batch of B train as one with a batch of N·B
    where each rank's loss is the mean over as many terms as on the others.
    """

    def __init__(self, solver, param, ranks, signals):
        """Prepares it.

        Args:
            solver: a solver of `solver.make`, restored where it goes on from a snapshot.
            param: the SolverParameter that the user wrote.
            ranks: a `Ranks`.
            signals: a function that gives what signals have asked for since it was called last: an index of REQUESTS.
        """
        self._solver, self._net, self._param, self._ranks, self._signals = solver, solver.net, param, ranks, signals
        self._parameters = parameters(solver.net)
        self._start = solver.iter
        self._losses, self._smoothed = [], np.float32(0)
        self._pass_losses = []
        self._shown = (solver.iter, time.monotonic())
        self._stopped = False
        for blob in self._parameters:
            ranks.share(blob.data)
        if param.iter_size > 1:
            last = len(solver.net.layers) - 1
            solver.net.after_forward(lambda layer: self._note_pass() if layer == last else None)
        solver.add_callback(self._pass_losses.clear, self._have_gradients)

    def run(self):
        """Trains up to max_iter, or until a signal stops it; logs what Caffe does."""
        param, solver = self._param, self._solver
        self._say(f"Solving {net_name(param)}")
        self._say(f"Learning Rate Policy: {param.lr_policy}")
        while solver.iter < param.max_iter and not self._stopped:
            if self._is_due(param.test_interval) and (solver.iter or param.test_initialization):
                self._test_all()
                if self._stopped:
                    break
            solver.step(1)
            asked = self._ranks.most_urgent(self._signals())
            if self._is_due(param.snapshot) or asked == SNAPSHOT:
                self._snapshot()
            self._stopped = asked == STOP
        if param.snapshot_after_train and not self._is_due(param.snapshot):
            self._snapshot()
        if self._stopped:
            self._say("Optimization stopped early.")
            return
        if self._is_due(param.display):
            self._net.forward()
            self._smooth(self._mean(total_loss(self._net)))
            self._say(f"Iteration {solver.iter}, loss = {self._smoothed:g}")
        if self._is_due(param.test_interval):
            self._test_all()
        self._say("Optimization Done.")

    def _is_due(self, interval):
        return interval > 0 and self._solver.iter % interval == 0

    def _say(self, text):
        if self._ranks.number == 0:
            caffe.log(text)

    def _mean(self, loss):
        if self._ranks.count == 1:
            return loss
        total = np.array([loss], np.float64)
        self._ranks.add(total)
        return np.float32(total[0] / self._ranks.count)

    def _note_pass(self):
        self._pass_losses.append(total_loss(self._net))

    def _have_gradients(self):
        """Called by Caffe between backward and the update."""
        if self._ranks.count > 1:
            for blob in self._parameters:
                diff = blob.diff
                self._ranks.add(diff)
                diff *= np.float32(1 / self._ranks.count)
        is_shown = self._is_due(self._param.display)
        if is_shown or self._param.average_loss > 1:
            if not self._pass_losses:
                self._note_pass()
            loss = np.float32(0)
            for each in self._pass_losses:
                loss += each
            self._smooth(self._mean(loss / np.float32(len(self._pass_losses))))
        if is_shown:
            self._show()

    def _smooth(self, loss):
        """As Solver::UpdateSmoothedLoss."""
        window = self._param.average_loss
        if len(self._losses) < window:
            self._losses.append(loss)
            size = np.float32(len(self._losses))
            self._smoothed = (self._smoothed * (size - 1) + loss) / size
        else:
            index = (self._solver.iter - self._start) % window
            self._smoothed += (loss - self._losses[index]) / np.float32(window)
            self._losses[index] = loss

    def _show(self):
        iteration, now = self._solver.iter, time.monotonic()
        lapse = now - self._shown[1]
        speed = (iteration - self._shown[0]) / (lapse or 1)
        self._shown = iteration, now
        timing = f"({speed:g} iter/s, {lapse:g}s/{self._param.display} iters)"
        self._say(f"Iteration {iteration} {timing}, loss = {self._smoothed:g}")
        self._show_outputs("Train", self._net, [self._net.blobs[name].data for name in self._net.outputs])
        self._say(f"Iteration {iteration}, lr = {self._solver.lr:g}")

    def _show_outputs(self, phase, net, outputs):
        number = 0
        for name, values in zip(net.outputs, outputs):
            weight = net.blob_loss_weights[name]
            for value in np.ravel(values):
                loss = f" (* {weight:g} = {np.float32(weight) * value:g} loss)" if weight else ""
                self._say(f"    {phase} net output #{number}: {name} = {value:g}{loss}")
                number += 1

    def _test_all(self):
        """As Solver::TestAll, on rank 0, while the others wait."""
        for number, net in enumerate(self._solver.test_nets):
            if self._ranks.number == 0 and not self._stopped:
                self._test(number, net)
        self._stopped = bool(self._ranks.most_urgent(int(self._stopped)))

    def _test(self, number, net):
        self._say(f"Iteration {self._solver.iter}, Testing net (#{number})")
        net.share_with(self._net)
        count = self._param.test_iter[number]
        sums, loss = None, np.float32(0)
        for _ in range(count):
            asked = self._signals()
            if asked == SNAPSHOT:
                self._snapshot()
            self._stopped = asked == STOP
            if self._stopped:
                self._say("Test interrupted.")
                return
            net.forward()
            loss += total_loss(net)
            outputs = [net.blobs[name].data.copy() for name in net.outputs]
            sums = outputs if sums is None else [total + each for total, each in zip(sums, outputs)]
        if self._param.test_compute_loss:
            self._say(f"Test loss: {loss / np.float32(count):g}")
        self._show_outputs("Test", net, [total / np.float32(count) for total in sums or []])

    def _snapshot(self):
        if self._ranks.number == 0:
            snapshots.save(self._solver, self._param)


def total_loss(net):
    """The sum of a net's losses, each times its loss weight, as Net::Forward adds them up."""
    total = np.float32(0)
    for tops in net.top_names.values():
        for top in tops:
            weight = net.blob_loss_weights[top]
            if weight:
                total += np.float32(
                    np.dot(net.blobs[top].data.ravel(), np.full(net.blobs[top].count, weight, np.float32))
                )
    return total
