"""The loss of a net, its mean over the last iterations, and where NaN in it comes from."""

import numpy as np


def forward(net):
    """Runs a net forward. Net.forward looks up outputs by name, and fails where two have none."""
    net._forward(0, len(net.layers) - 1)


def total_loss(losses):
    """The sum of losses, each times its loss weight, as Net::Forward adds them up; pairs from `losses_of`."""
    total = np.float32(0)
    for blob, weight in losses:
        data = blob.data.ravel()
        total += np.float32(np.dot(data, np.full(data.size, weight, np.float32)))
    return total


def losses_of(net):
    """The blobs of a net with a loss weight, and that. Tops that a prototxt does not name have one name together."""
    tops = [index for layer in range(len(net.layers)) for index in net._top_ids(layer)]
    # In place several layers have one top, and the weight that counts is that of the last of them.
    once = list(dict.fromkeys(reversed(tops)))[::-1]
    weights = net._blob_loss_weights
    return [(net._blobs[index], weights[index]) for index in once if weights[index]]


def outputs(net):
    """The outputs of a net: triples of name, loss weight and values."""
    return [(net._blob_names[index], net._blob_loss_weights[index], net._blobs[index].data) for index in net._outputs]


def first_nan(net):
    """Where NaN comes from: words for the first blob that has one, in the order of the layers."""
    layer = layer_with_nan(net)
    if layer:
        return f'the parameters of layer "{layer}" have it, from an earlier iteration'
    for number, layer in enumerate(net._layer_names):
        for index in net._top_ids(number):
            blob = net._blobs[index]
            wrong = int(np.count_nonzero(np.isnan(blob.data)))
            if wrong:
                return (
                    f'the first blob with NaN is "{net._blob_names[index]}" of layer "{layer}", {wrong} of {blob.count}'
                )
    return "no blob has NaN"


def layer_with_nan(net):
    """The name of the first layer whose parameters have NaN; None for none."""
    for layer, blobs in net.params.items():
        if any(np.isnan(blob.data).any() for blob in blobs):
            return layer
    return None


class Smoothed:
    """The mean of the last losses, as Solver::UpdateSmoothedLoss has it."""

    def __init__(self, window, start):
        """Takes the solver's average_loss, and the iteration that the training begins with."""
        self._window, self._start, self._losses = window, start, []
        self.value = np.float32(0)

    def add(self, loss, iteration):
        """Takes in the loss of an iteration."""
        if len(self._losses) < self._window:
            self._losses.append(loss)
            size = np.float32(len(self._losses))
            self.value = (self.value * (size - 1) + loss) / size
        else:
            index = (iteration - self._start) % self._window
            self.value += (loss - self._losses[index]) / np.float32(self._window)
            self._losses[index] = loss
