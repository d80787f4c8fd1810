"""A Caffe with cuDNN (docker/build_caffe.sh --with-cudnn): its layers by cuDNN against the same layers by Caffe."""

import caffe
import numpy as np
import pytest
from harness.nets import run

pytestmark = pytest.mark.gpu

LAYERS = {
    "Convolution": "convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 2 %s %s }",
    "Convolution, groups": "convolution_param { num_output: 6 kernel_size: 5 group: 2 %s %s }",
    "Convolution, 1x1": "convolution_param { num_output: 6 kernel_size: 1 %s %s }",
    "Deconvolution": "convolution_param { num_output: 6 kernel_size: 4 stride: 2 %s %s }",
    "Pooling, MAX": "pooling_param { pool: MAX kernel_size: 3 stride: 2 %.0s %s }",
    "Pooling, AVE": "pooling_param { pool: AVE kernel_size: 2 stride: 2 %.0s %s }",
    "ReLU": "relu_param { %.0s %s }",
    "Sigmoid": "sigmoid_param { %.0s %s }",
    "TanH": "tanh_param { %.0s %s }",
    "Softmax": "softmax_param { %.0s %s }",
    "LRN": "lrn_param { %.0s %s }",
}
FILLER = 'weight_filler { type: "gaussian" std: 0.3 } bias_filler { type: "constant" value: 0.2 }'
# Sums of up to 75 products in float, in another order.
RELATIVE = 1e-5


@pytest.fixture(autouse=True)
def cudnn():
    libraries = pytest.importorskip("bvlc_caffe.libraries", reason="this Caffe does not come from the kit's wheel")
    if "libcudnn" not in libraries.NEEDED:
        pytest.skip("this Caffe is built without cuDNN")


@pytest.mark.parametrize("name", LAYERS)
def test_cudnn_computes_what_caffe_does(name):
    x = np.random.default_rng(0).normal(size=(3, 4, 13, 11)).astype(np.float32)

    def result(engine):
        layer = (
            f'layer {{ name: "layer" type: "{name.split(",")[0]}" bottom: "x" top: "y" '
            f"{LAYERS[name] % (FILLER, f'engine: {engine}')} }}"
            'layer { name: "square" type: "Power" bottom: "y" top: "squared" power_param { power: 2 } }'
            'layer { name: "loss" type: "Reduction" bottom: "squared" top: "loss" loss_weight: 1 }'
        )
        caffe.set_random_seed(1)  # for the same weights
        return run(layer, {"x": x})

    found, expected = result("CUDNN"), result("CAFFE")
    assert found.loss == pytest.approx(expected.loss, rel=RELATIVE)
    gradient = expected.diffs["x"]
    assert np.abs(found.diffs["x"] - gradient).max() <= RELATIVE * np.abs(gradient).max()
