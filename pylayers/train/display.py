"""What a training says: Caffe's log lines, and a line with its progress where stderr is a terminal."""

import datetime
import sys
import time

import caffe
import numpy as np

_EVERY = 0.2  # seconds between two looks of the line


class Display:
    """The log of one training, written by rank 0."""

    def __init__(self, param, ranks, iteration):
        """Takes the SolverParameter, a `Ranks`, and the iteration that the training begins with."""
        self._param, self._ranks = param, ranks
        self._shown = self._started = (iteration, time.monotonic())
        self._is_terminal = ranks.number == 0 and sys.stderr.isatty()
        self._line_at = 0

    def say(self, text):
        """A line of the log."""
        if self._ranks.number == 0:
            if self._is_terminal:
                print("\x1b[K", end="", file=sys.stderr, flush=True)
            caffe.log(text)

    def iteration(self, number, loss, outputs, rate):
        """What Caffe shows of an iteration.

        Args:
            number: of the iteration.
            loss: smoothed.
            outputs: triples of an output's name, its loss weight and its values.
            rate: the learning rate.
        """
        now = time.monotonic()
        lapse = now - self._shown[1]
        speed = (number - self._shown[0]) / (lapse or 1)
        self._shown = number, now
        self.say(f"Iteration {number} ({speed:g} iter/s, {lapse:g}s/{self._param.display} iters), loss = {loss:g}")
        self.outputs("Train", outputs)
        self.say(f"Iteration {number}, lr = {rate:g}")

    def outputs(self, phase, outputs):
        """The values of the outputs of a net in phase "Train" or "Test"; triples as for `iteration`."""
        number = 0
        for name, weight, values in outputs:
            for value in np.ravel(values):
                loss = f" (* {weight:g} = {np.float32(weight) * value:g} loss)" if weight else ""
                self.say(f"    {phase} net output #{number}: {name} = {value:g}{loss}")
                number += 1

    def progress(self, number, loss, rate):
        """The line on a terminal, which the next line of the log overwrites."""
        now = time.monotonic()
        if not self._is_terminal or now < self._line_at:
            return
        self._line_at = now + _EVERY
        last, (first, start) = self._param.max_iter, self._started
        speed = (number + 1 - first) / (now - start)
        left = datetime.timedelta(seconds=round((last - number - 1) / speed))
        text = f"{number + 1}/{last}  loss {loss:.4g}  lr {rate:g}  {speed:.3g} iter/s  {left} left"
        print(f"\x1b[K{text}\r", end="", file=sys.stderr, flush=True)

    def traffic(self, iteration, layers):
        """What the ranks have sent up to an iteration, a line at the end; with the names of layers a table, too."""
        found = self._ranks.traffic
        if not found:
            return
        iterations, seconds = max(1, iteration - self._started[0]), time.monotonic() - self._started[1]
        calls, size, spent = sum(found.values())
        self.say(
            f"Communication: {size / iterations / 1e6:.4g} MB and {1e3 * spent / iterations:.4g} ms an iteration, "
            f"{100 * spent / seconds:.3g} % of the time (with the wait for slower processes)"
        )
        if not layers:
            return
        self.say(f"{'sent for':24}{'sums':>8}{'MB':>10}{'ms':>10}   an iteration")
        for name in sorted(found, key=lambda name: layers.index(name) if name in layers else len(layers)):
            calls, size, spent = found[name] / iterations
            self.say(f"{name:24}{calls:8.4g}{size / 1e6:10.4g}{1e3 * spent:10.4g}")
