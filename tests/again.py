"""The tests of the losses' CPU code, to be run again: in GPU mode, or with other loops."""

import test_all_losses
import test_channel_sum_euclidean_loss
import test_euclidean_loss
import test_weighted_softmax_loss

MODULES = (test_all_losses, test_channel_sum_euclidean_loss, test_euclidean_loss, test_weighted_softmax_loss)
LEFT_OUT_ON_GPU = {
    # Takes seconds and is about Caffe's CPU code.
    "test_large_blob_is_exact_where_the_builtin_is_not",
    # About errors that come one call later on the GPU.
    "test_rejects_labels_in_backward_too",
    "test_a_refused_label_leaves_no_old_gradient",
    "test_labels_that_changed_before_a_refused_one_are_seen",
    # About the CPU's loops.
    "test_a_backward_that_was_interrupted_leaves_nothing_half_done",
    # On the GPU softmax takes Z, and with it the sum of the weights, from the last forward.
    "test_weights_that_change_before_backward_are_seen",
}


def tests(left_out):
    """The tests by names that tell their file, for the globals of another file; `left_out` are not among them."""
    return {
        f"{name}__{module.__name__.removeprefix('test_')}": value
        for module in MODULES
        for name, value in vars(module).items()
        if name.startswith("test_") and callable(value) and name not in left_out
    }
