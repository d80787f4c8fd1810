"""A test of a test net, whose batches several ranks share."""

import numpy as np

from pylayers.layer import LossLayer
from pylayers.train import data
from pylayers.train.losses import forward, losses_of, outputs, total_loss

_REMEMBERS = ("Recurrent", "RNN", "LSTM")


class SharedTest:
    """The tests of one test net.

    Attributes:
        shares: the number of ranks that share its batches.
    """

    def __init__(self, net, batches, ranks):
        """Takes the net, the number of batches of a test, and a `Ranks`."""
        self._net, self._batches, self._ranks = net, batches, ranks
        self._sources, self._losses = data.sources(net), losses_of(net)
        # Rank 0 alone where ranks might get other rows, or a layer might remember the batches before.
        self.shares = ranks.count if self._can_be_shared() else 1

    def _can_be_shared(self):
        layers = self._net.layers
        return all(layers[index].type in data.DEALT for index in self._sources) and all(
            isinstance(layer, LossLayer) if layer.type == "Python" else layer.type not in _REMEMBERS for layer in layers
        )

    def run(self, is_stopped):
        """Runs all batches.

        Every rank moves its data over every batch, so that all are at the same place.

        Args:
            is_stopped: a function that says before a batch whether to stop. All ranks call it equally often.

        Returns:
            The mean loss, and the outputs as `losses.outputs` gives them, of their means; None where it was stopped.
        """
        net = self._net
        loss = np.float32(0)
        sums = [np.zeros_like(values) for _, _, values in outputs(net)]
        for batch in range(self._batches):
            if batch % self.shares == 0 and is_stopped():
                return None
            if batch % self.shares != self._ranks.number:
                data.skip(net, self._sources, 1)
                continue
            forward(net)
            loss += total_loss(self._losses)
            sums = [total + values for total, (_, _, values) in zip(sums, outputs(net))]
        if self._ranks.count > 1:
            flat = np.concatenate([[loss], *map(np.ravel, sums)])
            self._ranks.add(flat, "tests")
            loss, sums = np.float32(flat[0]), _split(flat[1:].astype(np.float32), sums)
        count = np.float32(self._batches)
        return loss / count, [(name, weight, total / count) for (name, weight, _), total in zip(outputs(net), sums)]


def _split(flat, like):
    ends = np.cumsum([array.size for array in like])
    return [part.reshape(array.shape) for part, array in zip(np.split(flat, ends[:-1]), like)]
