"""The kit's losses in PyTorch: its own function, or the formula in its operations where it has none."""

import math


def import_torch(threads):
    """PyTorch, with that many threads; None where it is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    torch.set_num_threads(threads)
    return torch


def call(torch, case, device="cpu", compiled=False):
    """A function that runs forward and backward of a case's loss; None where PyTorch has no such loss.

    Args:
        torch: the module.
        case: a `pylayers.tools.twins.Case`.
        device: PyTorch's name of it.
        compiled: whether torch.compile compiles it, at the first call.
    """
    if case.pair not in LOSSES:
        return None
    leaves, loss = LOSSES[case.pair](torch, case, device)
    if compiled:
        loss = torch.compile(loss, dynamic=False)

    def forward_and_backward():
        for leaf in leaves:
            leaf.grad = None
        loss().backward()

    return forward_and_backward


def _leaf(torch, case, device):
    return torch.randn(case.shape, requires_grad=True, device=device)


def _label(torch, case, device):
    """One class for each position, or with SIGMOID one number of 0 and 1 for each score."""
    if case.options.get("activation") == "SIGMOID":
        return torch.randint(2, case.shape, device=device).float()
    return torch.randint(case.shape[1], (case.shape[0], *case.shape[2:]), device=device)


def _of_elements(function):
    """A loss between predictions and targets. PyTorch's functions add up, and N divides."""

    def build(torch, case, device):
        pred, target = _leaf(torch, case, device), torch.randn(case.shape, device=device)
        return [pred], lambda: function(torch.nn.functional)(pred, target, reduction="sum") / case.shape[0]

    return build


def _euclidean(torch, case, device):
    pred, target = _leaf(torch, case, device), torch.randn(case.shape, device=device)
    factor = 0.5 * math.prod(case.shape[1:])  # mse_loss divides by the elements, EuclideanLoss by N
    return [pred], lambda: torch.nn.functional.mse_loss(pred, target) * factor


def _channel_sum(torch, case, device):
    pred, target = _leaf(torch, case, device), torch.randn(case.target, device=device)
    factor = 0.5 * math.prod(case.shape[2:])  # as above, of the sums

    def loss():
        return torch.nn.functional.mse_loss(torch.sum(pred, 1), torch.sum(target, 1)) * factor

    return [pred], loss


def _softmax(torch, case, device):
    scores, label = _leaf(torch, case, device), _label(torch, case, device)
    return [scores], lambda: torch.nn.functional.cross_entropy(scores, label)


def _sigmoid(torch, case, device):
    scores, target = _leaf(torch, case, device), torch.randint(2, case.shape, device=device).float()
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    return [scores], lambda: loss(scores, target, reduction="sum") / case.shape[0]


def _focal(torch, case, device):
    scores, label = _leaf(torch, case, device), _label(torch, case, device)
    gamma, functional = case.options.get("gamma", 2), torch.nn.functional
    is_sigmoid = case.options.get("activation") == "SIGMOID"
    entropy = functional.binary_cross_entropy_with_logits if is_sigmoid else functional.cross_entropy
    z = case.shape[0] if is_sigmoid else label.numel()

    def loss():
        each = entropy(scores, label, reduction="none")
        return torch.sum((1 - torch.exp(-each)) ** gamma * each) / z

    return [scores], loss


def _dice(torch, case, device):
    scores, classes = _leaf(torch, case, device), case.shape[1]
    label = torch.randint(max(2, classes), (case.shape[0], *case.shape[2:]), device=device)
    axes = [0, *range(2, len(case.shape))]

    def loss():
        p = torch.sigmoid(scores) if case.options.get("activation") == "SIGMOID" else torch.softmax(scores, 1)
        # As the layer, it is handed labels, and no planes of 0 and 1.
        t = label[:, None] if classes == 1 else torch.movedim(torch.nn.functional.one_hot(label, classes), -1, 1)
        t = t.to(p.dtype)
        above = 2 * torch.sum(p * t, axes) + 1
        return 1 - torch.mean(above / (torch.sum(p * p, axes) + torch.sum(t, axes) + 1))

    return [scores], loss


def _triplet(torch, case, device):
    # As bench times the layer, only the anchor gets a gradient.
    anchor, (positive, negative) = _leaf(torch, case, device), torch.randn((2, *case.shape), device=device)
    axes = list(range(1, len(case.shape)))

    def loss():
        near, far = (torch.sum((anchor - other) ** 2, axes) for other in (positive, negative))
        return torch.sum(torch.relu(near - far + case.options.get("margin", 1))) / (2 * case.shape[0])

    return [anchor], loss


# By pair: a function of PyTorch, a case and a device, which returns the leaves, and a function that gives the loss.
LOSSES = {
    "euclidean": _euclidean,
    "channel-sum": _channel_sum,
    "softmax": _softmax,
    "l1": _of_elements(lambda functional: functional.l1_loss),
    "smooth-l1": _of_elements(lambda functional: functional.smooth_l1_loss),
    "sigmoid": _sigmoid,
    "focal-gamma": _focal,
    "dice": _dice,
    "triplet": _triplet,
}
