"""Labels in a net."""

from types import SimpleNamespace

from caffe.proto import caffe_pb2

from pylayers.caffe_nets.labels import Label, find_labels


def test_accuracy_alone_has_an_ignore_label_of_its_own():
    """Beside a loss it is the loss's that counts."""
    layer = caffe_pb2.LayerParameter(type="Accuracy", bottom=["scores", "label"])
    layer.accuracy_param.ignore_label = 255
    net = SimpleNamespace(blobs={"scores": SimpleNamespace(shape=(4, 3))})
    assert find_labels([layer], net) == {"label": Label(3, 255)}
    loss = caffe_pb2.LayerParameter(type="SoftmaxWithLoss", bottom=["scores", "label"])
    assert find_labels([layer, loss], net) == {"label": Label(3, None)}
