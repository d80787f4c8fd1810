"""What docker/caffe/patches/ mends in pycaffe itself: each of these failed on today's NumPy, scikit-image or Python."""

import caffe
import numpy as np
import pytest
from harness.nets import input_text, load
from skimage.io import imsave


def test_load_image_in_grey(tmp_path):
    pixels = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    imsave(tmp_path / "image.png", pixels)
    assert caffe.io.load_image(str(tmp_path / "image.png"), color=False).shape == (10, 10, 1)
    np.testing.assert_allclose(caffe.io.load_image(str(tmp_path / "image.png")), pixels / 255, rtol=1e-6)


def test_datum_of_bytes():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    found = caffe.io.datum_to_array(caffe.io.array_to_datum(array, label=1))
    np.testing.assert_array_equal(found, array)
    found[0, 0, 0] = 7  # a copy that may be written to


def test_forward_backward_all():
    net = load(
        "force_backward: true\n"
        + input_text("data", (2, 3))
        + 'layer { name: "out" type: "Power" bottom: "data" top: "out" power_param { scale: 2 } }'
    )
    data = np.arange(15, dtype=np.float32).reshape(5, 3)
    tops, bottoms = net.forward_backward_all(data=data, out=np.ones_like(data))
    np.testing.assert_array_equal(tops["out"], 2 * data)
    np.testing.assert_array_equal(bottoms["data"], np.full_like(data, 2))


@pytest.mark.parametrize("window", [(2, 3, 12, 13), (0, 0, 19, 19)])
def test_detector_with_context_pad(tmp_path, window):
    (tmp_path / "net.prototxt").write_text(
        'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }'
        'layer { name: "out" type: "Reduction" bottom: "data" top: "out" reduction_param { axis: 1 } }'
    )
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    net.save(str(tmp_path / "net.caffemodel"))
    detector = caffe.Detector(str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel"), context_pad=2)
    crop = detector.crop(np.ones((20, 20, 3), np.float32), np.array(window))
    assert crop.shape == (8, 8, 3)
    assert crop[4, 4] == pytest.approx(1)
