"""What each rule of `pylayers doctor` is for: what it finds, and what it lets pass."""

from typing import NamedTuple

from harness.doctor_nets import (
    AGAIN,
    ARGMAX,
    CHECK_SHAPES,
    CLASSIFIED,
    COST,
    DATA,
    FROZEN_LABELLER,
    FROZEN_VOTES,
    LABELLER,
    LOSS,
    ONES,
    PRED,
    REAL_LOSS,
    RELUS,
    SCALED,
    SILENCE,
    TWO_COSTS,
    TWO_TOPS,
    VOTES,
    ZEROS,
    at,
    euclidean,
    fixed,
    python,
    reduction,
    shared,
    softmax,
    twice,
    weighted,
    with_param_str,
)


class Broken(NamedTuple):
    """A net that breaks one rule, and no other."""

    rule: str
    text: str
    found: str
    write: str = ""
    severity: str = "error"
    gpu: str = None


def signature(layer, found, write):
    net = at(DATA + PRED + python(layer, "doctor_layers"), "layer: ")
    return Broken("method-signature", net, found, write)


def unweighted(layer, found, write, more="\n loss_weight: 0.5"):
    net = at(DATA + PRED + python(layer, "doctor_layers", more), "loss_weight: 0.5" if "\n" in more else LOSS)
    return Broken("loss-weight-ignored", net, found, write, "warning")


BROKEN = [
    unweighted("UnweightedLayer", "never reads its top: the loss_weight 0.5 has no effect", "= top[0].diff[0] * ..."),
    unweighted("ScalarUnweightedLayer", "doctor_layers.py:", "bottom[0].diff[...] = float(top[0].diff) * ..."),
    unweighted("UnweightedFormulaLayer", "backward_cpu at ", "bottom[0].diff[...] = loss_weight * ..."),
    unweighted("OwnBackwardLayer", "backward at ", "= float(top[0].diff) * ..."),
    Broken(
        "loss-weight-ignored",
        at(DATA + PRED + python("UnweightedLayer", "doctor_layers", "loss_weight: 0"), LOSS).replace(
            "loss_weight: 0", ""
        )
        + SCALED.replace("}", "loss_weight: 1 }"),
        'the gradient from above, "scaled", has no effect',
        "= top[0].diff * ...",
        "warning",
    ),
    Broken(
        "module-import",
        at(euclidean(module="no_such_module"), "module:"),
        "the module 'no_such_module' cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
    ),
    Broken("module-import", at(euclidean(module=""), "module:"), "names no module", 'module: "pylayers"'),
    Broken(
        "layer-class",
        at(DATA + PRED + python("EuclideanLoss"), "layer: "),
        "the module pylayers has no EuclideanLoss",
        'layer: "EuclideanLossLayer"',
    ),
    Broken("layer-class", at(DATA + PRED + python("Xyz"), "layer: "), "has no Xyz", "it has ChannelSumEuclideanLoss"),
    Broken(
        "layer-class",
        at(DATA + PRED + python("NoLayer", "doctor_layers"), "layer: "),
        "NoLayer of doctor_layers is no subclass of caffe.Layer",
        "class NoLayer(caffe.Layer):",
    ),
    signature("NoSetupLayer", "doctor_layers.NoSetupLayer has no method setup", "def setup(self, bottom, top):"),
    signature("NoReshapeLayer", "has no method reshape", "def reshape(self, bottom, top):"),
    signature("NoForwardLayer", "has no method forward", "def forward(self, bottom, top):"),
    signature("NoBackwardLayer", "no method backward", "def backward(self, top, propagate_down, bottom):"),
    signature(
        "SwappedBackwardLayer",
        "has backward(self, bottom, propagate_down, top) at ",
        "def backward(self, top, propagate_down, bottom):",
    ),
    signature("SwappedForwardLayer", "has forward(self, top, bottom) at ", "def forward(self, bottom, top):"),
    signature("NoSelfLayer", "has setup(bottom, top) at ", "def setup(self, bottom, top):"),
    signature("TwoParametersLayer", "Caffe calls it with top, propagate_down, bottom", "def backward(self, top,"),
    signature("NoFormulaLayer", "has no method forward_cpu", "def forward_cpu(self, bottom, top):"),
    signature(
        "SwappedFormulaLayer",
        "has backward_cpu(self, bottom, propagate_down, loss_weight) at ",
        "def backward_cpu(self, loss_weight, propagate_down, bottom):",
    ),
    signature("NoGradientsLayer", "NoGradientsLayer has no method gradients", "def gradients(self, xp, pred, target):"),
    signature("NoLossLayer", "NoLossLayer has no method loss", "def loss(self, xp, pred, target):"),
    signature(
        "SwappedLossLayer",
        "; ArrayLossLayer calls it with xp, pred, target, weight=None",
        "def loss(self, xp, pred, target, weight=None):",
    ),
    signature("NoXpLayer", "has gradients(self, pred, target, weight=None) at ", "def gradients(self, xp, pred, "),
    signature("NoTargetLayer", "has gradients(self, xp, pred) at ", "def gradients(self, xp, pred, target, "),
    signature("WrongShapesLayer", "has check_shapes(self, one, two, three) at ", CHECK_SHAPES),
    Broken(
        "loss-top",
        at(euclidean(more="").replace('top: "loss"', ""), LOSS),
        "a Python loss without top",
        'top: "loss" loss_weight: 1 in the layer',
    ),
    Broken("loss-weight", at(euclidean(more=""), LOSS), "it trains nothing", "loss_weight: 1 in the layer"),
    Broken(
        "loss-weight",
        at(TWO_TOPS.replace("loss_weight: 1", ""), LOSS),
        "it trains nothing",
        "loss_weight: 1 loss_weight: 0 in the layer",
    ),
    Broken(
        "loss-weight",
        at(DATA + PRED + python("GoodLayer", "doctor_layers", more=""), LOSS),
        "it trains nothing",
        severity="warning",
    ),
    # What takes a loss need not lead to one.
    Broken(
        "loss-weight",
        at(euclidean(more=""), LOSS) + SCALED,
        'it trains nothing; what takes it, "scaled", leads to no loss either',
        "loss_weight: 1 in the layer",
    ),
    Broken(
        "loss-weight",
        at(euclidean(more=""), LOSS) + SCALED + SILENCE.replace('"loss"', '"scaled"'),
        '"scaled", leads to no loss either',
    ),
    Broken("loss-weight", at(euclidean(more=""), LOSS) + SILENCE, "is no loss to Caffe: it trains nothing"),
    Broken("loss-weight", at(euclidean(more=""), LOSS) + SILENCE + REAL_LOSS, "it trains nothing"),
    Broken("loss-weight", at(euclidean(more=""), LOSS) + SCALED + REAL_LOSS, "it trains nothing"),
    Broken(
        "loss-weight",
        at(DATA + PRED + python("GoodLayer", "doctor_layers", more=""), LOSS) + REAL_LOSS,
        "it trains nothing",
        severity="warning",
    ),
    Broken(
        "no-loss",
        at(COST, 'layer { name: "cost"'),
        "no layer has a loss weight, and none is a loss of Caffe's own: nothing is learnt",
        "loss_weight: 1 in the layer, if this is the loss",
        "warning",
    ),
    # Nothing says that this net is for training but the look of its last layer.
    Broken(
        "no-loss",
        at(COST.replace("include { phase: TRAIN }", ""), 'layer { name: "cost"'),
        "nothing is learnt",
        severity="warning",
    ),
    Broken(
        "no-loss",
        at(TWO_COSTS + SILENCE.replace("loss", "more"), 'layer { name: "cost"'),
        "nothing is learnt",
        "loss_weight: 1 loss_weight: 0 in the layer",
        "warning",
    ),
    Broken("loss-weight-count", at(TWO_TOPS, LOSS), "1 loss_weight for 2 tops", "loss_weight: 1 loss_weight: 0"),
    Broken(
        "label-gradient",
        at(softmax(LABELLER), 'bottom: "scores"'),
        'bottom "given" (label) depends on the parameters of "teacher"; the gradient that it gets from this loss is 0',
        "propagate_down: true propagate_down: false in the layer",
        "warning",
    ),
    Broken(
        "label-gradient",
        at(softmax(LABELLER, kind='"SoftmaxWithLoss"'), 'bottom: "scores"'),
        'depends on the parameters of "teacher"; Caffe ends with its gradient',
    ),
    Broken(
        "label-gradient",
        at(
            softmax(FROZEN_LABELLER, "\npropagate_down: true propagate_down: true", '"SoftmaxWithLoss"'),
            "propagate_down",
        ),
        'propagate_down asks for the gradient of bottom "given" (label), and Caffe ends with that',
        "propagate_down: true propagate_down: false",
    ),
    Broken(
        "no-backward",
        softmax(VOTES + ARGMAX),
        'ArgMax has no backward, and Caffe ends where it asks for it: below it "teacher" learns',
        'propagate_down: false in the layer that takes it, "loss"',
    ),
    Broken("no-backward", "force_backward: true\n" + softmax(FROZEN_VOTES + ARGMAX), "force_backward asks every layer"),
    Broken(
        "param-str",
        at(with_param_str(euclidean(), '{"axis": 1}'), "param_str"),
        'EuclideanLossLayer: param_str has the unknown key "axis"; it takes "normalization"',
    ),
    Broken(
        "param-str",
        at(with_param_str(DATA + PRED + python("L1LossLayer", "user_losses"), "x"), "param_str"),
        "L1LossLayer: param_str is not JSON",
    ),
    Broken(
        "unknown-field",
        at(euclidean(more="\n loss_weight: 1 smooth_l1_loss_param { sigma: 3 more { x: [1, 2] } }"), "loss_weight"),
        'Caffe 1.0 has no "smooth_l1_loss_param" in a layer (it is a fork\'s), and refuses the file',
        """param_str: '{"sigma": 3.0}' in the python_param of SmoothL1LossLayer; SmoothL1LossLayer has no x""",
    ),
    Broken(
        "unknown-field",
        at(euclidean(more="\n loss_weight: 1 focal_loss_param { alpha: 0.25 gamma: 1.5 }"), "loss_weight"),
        'Caffe 1.0 has no "focal_loss_param"',
        """param_str: '{"gamma": 1.5}' in the python_param of FocalLossLayer; FocalLossLayer has no alpha""",
    ),
    Broken(
        "unknown-field",
        at(euclidean(more="\n loss_weight: 1 roi_pooling_param { pooled_w: 7 }"), "loss_weight"),
        'Caffe 1.0 has no "roi_pooling_param" in a layer (it is a fork\'s), and refuses the file',
        "no such line, or the fork",
    ),
    Broken(
        "unknown-field",
        at(with_param_str(euclidean(), "{}").replace("param_str:", "param_str_:"), "param_str_"),
        'no "param_str_" in python_param, and',
        "param_str, as it is called today",
    ),
    Broken(
        "unknown-field",
        at(euclidean(more="\n loss_wieght: 1 loss_weight: 1"), "loss_wieght"),
        'no "loss_wieght" in a layer, and',
        "loss_weight",
    ),
    Broken(
        "unknown-field",
        at(euclidean().replace("num_output: 3", "\n engine: MKL2017 num_output: 3"), "engine"),
        'no "MKL2017" for engine (it is a fork\'s), and',
    ),
    Broken(
        "unknown-field",
        at(euclidean().replace("num_output: 3", "\n engine: CUDN num_output: 3"), "engine"),
        'no "CUDN" for engine, and',
        "engine: CUDNN",
    ),
    Broken(
        "unknown-field",
        at(euclidean(more="loss_weight: 1\n name: 'loss'"), "name: "),
        '"name" stands twice in a layer, and may stand once: Caffe refuses',
        "one name",
    ),
    Broken(
        "unknown-field",
        at(CLASSIFIED.replace('  top: "l', '  loss_param { class_weighting: 2 } top: "l'), "loss_param"),
        'Caffe 1.0 has no "class_weighting" in loss_param, and',
        'layer: "WeightedSoftmaxLossLayer" }, with class_weights in param_str',
    ),
    Broken(
        "unknown-field",
        at(CLASSIFIED.replace('  top: "l', '  loss_param { ignore_label: [1, 2] } top: "l'), "loss_param"),
        '"ignore_label" takes one number in loss_param, found [...]: Caffe refuses the file',
    ),
    Broken(
        "unknown-field",
        at(CLASSIFIED.replace('  top: "l', '  loss_param { ignore_label: none } top: "l'), "loss_param"),
        '"ignore_label" takes one number in loss_param, found none: Caffe refuses the file',
    ),
    Broken(
        "layer-type",
        at(CLASSIFIED.replace('type: "Soft', '\ntype: "WeightedSoft'), "type:"),
        'this Caffe has no layer type "WeightedSoftmaxWithLoss"',
        'layer: "WeightedSoftmaxLossLayer"',
    ),
    Broken(
        "layer-type",
        at(CLASSIFIED.replace('type: "SoftmaxWithLoss"', '\ntype: "SigmoidFocalLoss"'), "type:"),
        'this Caffe has no layer type "SigmoidFocalLoss"',
        """layer: "FocalLossLayer" param_str: '{"activation": "SIGMOID"}'""",
    ),
    Broken(
        "layer-type",
        at(CLASSIFIED.replace('type: "SoftmaxWithLoss"', '\ntype: "DiceLossLayer" loss_weight: 1'), "type:"),
        'this Caffe has no layer type "DiceLossLayer"',
        'type: "Python" python_param { module: "pylayers" layer: "DiceLossLayer" }',
    ),
    Broken(
        "layer-type",
        at(euclidean().replace('type: "Convolution"', '\n type: "ROIPooling"'), "type:"),
        'this Caffe has no layer type "ROIPooling"',
        "a type that Caffe has",
    ),
    Broken(
        "layer-type",
        at(euclidean().replace('type: "Convolution"', '\n type: "Roi"'), "type:"),
        'this Caffe has no layer type "Roi"',
        "a type that Caffe has",
    ),
    Broken(
        "layer-type",
        at(euclidean().replace('type: "Convolution"', '\n type: "convolution"'), "type:"),
        "no layer type",
        'type: "Convolution"',
    ),
    Broken("layer-type", at(euclidean().replace('type: "Convolution"', ""), 'layer { name: "pred"'), "has no type"),
    Broken(
        "layer-type",
        at(euclidean().replace('type: "Convolution"', '\n type: "ImageData"'), "type:"),
        "no layer type",
        "make CAFFE=--with-opencv",
    ),
    Broken(
        "unread-param",
        at(euclidean().replace('type: "Python"', '\n type: "EuclideanLoss"'), "type: "),
        'type "EuclideanLoss" does not read python_param, so EuclideanLossLayer is not run',
        'type: "Python"',
    ),
    Broken(
        "unread-param",
        at(weighted("loss_param { ignore_label: 255 normalize: false }"), "loss_param"),
        "a Python layer does not read loss_param",
        'param_str: \'{"class_weights": [1, 2, 3, 4, 5], "ignore_label": 255, "normalization": "BATCH_SIZE"}\'',
    ),
    Broken(
        "unread-param",
        at(weighted("softmax_param { axis: 2 }"), "softmax_param"),
        "read softmax_param",
        '"axis": 2}',
    ),
    Broken(
        "unread-param",
        at(weighted('infogain_loss_param { source: "H" }', ""), "infogain_loss_param"),
        "read infogain_loss_param",
        '{"class_weights": [one for each class]}',
    ),
    Broken(
        "unread-param",
        at(weighted("hinge_loss_param { norm: L2 }"), "hinge_loss_param"),
        "read hinge_loss_param",
        "else no such block",
        "warning",
    ),
    Broken(
        "negative-weight",
        at(euclidean(more="\n loss_weight: -2"), "loss_weight"),
        "loss_weight -2: training makes this loss large",
        "loss_weight: 2, unless",
        "warning",
    ),
    Broken(
        "negative-weight",
        at(weighted("", '{"class_weights": [1, -0.5, 1, 1, 1]}'), "param_str"),
        "a class weight of -0.5",
        '0.5 in "class_weights"',
        "warning",
    ),
    Broken(
        "softmax-twice",
        at(twice("Softmax"), 'bottom: "prob"'),
        'SoftmaxWithLoss takes the softmax itself, and "prob" below it is a Softmax',
        'bottom: "scores"',
        "warning",
    ),
    Broken(
        "softmax-twice",
        at(
            twice("Softmax", '"Python" python_param { module: "pylayers" layer: "WeightedSoftmaxLossLayer" }'),
            'bottom: "prob"',
        ),
        "WeightedSoftmaxLossLayer takes the softmax itself",
        severity="warning",
    ),
    Broken(
        "softmax-twice",
        at(twice("Sigmoid", '"SigmoidCrossEntropyLoss"', "more"), 'bottom: "prob"'),
        "SigmoidCrossEntropyLoss takes the sigmoid itself",
        severity="warning",
    ),
    Broken(
        "softmax-twice",
        at(twice("Softmax", '"Python" python_param { module: "pylayers" layer: "DiceLossLayer" }'), 'bottom: "prob"'),
        "DiceLossLayer takes the softmax itself",
        severity="warning",
    ),
    Broken(
        "softmax-twice",
        at(
            twice(
                "Sigmoid",
                '"Python" python_param { module: "pylayers" layer: "FocalLossLayer"'
                """ param_str: '{"activation": "SIGMOID"}' }""",
                "more",
            ),
            'bottom: "prob"',
        ),
        "FocalLossLayer takes the sigmoid itself",
        severity="warning",
    ),
    Broken(
        "same-name",
        euclidean().replace(LOSS, AGAIN + "\n" + LOSS),
        "the layer at line 3 has this name too",
        'name: "pred_2"',
        "warning",
    ),
    Broken(
        "same-name",
        shared("param { lr_mult: 1 } param { lr_mult: 2 }"),
        "the layer at line 3 has this name too",
        severity="warning",
    ),
    Broken(
        "fixed-convolution-zero",
        at(fixed('bias_term: false\n weight_filler { type: "constant" }'), "weight_filler"),
        "its top is always 0",
        'weight_filler { type: "constant" value: 1 }',
    ),
    Broken(
        "fixed-convolution-zero",
        at(fixed("bias_term: false"), "convolution_param {$"),
        "its top is always 0, if no file of weights has the layer",
        severity="warning",
    ),
    Broken(
        "fixed-convolution-trained",
        at(fixed(f"bias_term: false {ONES}", "param { lr_mult: 1 }"), "param {"),
        "is trained",
        "param { lr_mult: 0 decay_mult: 0 }",
    ),
    Broken("fixed-convolution-trained", at(fixed(f"bias_term: false {ONES}", ""), 'layer { name: "sum"'), "is trained"),
    Broken(
        "fixed-convolution-trained",
        at(fixed(ONES, "param { lr_mult: 0 }"), "convolution_param {$"),
        "has a bias, and that is trained",
        "bias_term: false",
    ),
    Broken(
        "fixed-convolution-trained",
        at(fixed(f"bias_term: false {ONES}", "", "SigmoidCrossEntropyLoss"), 'layer { name: "sum"'),
        "is trained",
        severity="warning",
    ),
    Broken("multi-gpu", at(euclidean(), LOSS), "do not work with caffe train --gpu 0,1", "--gpu 0, or", gpu="0,1"),
    Broken("multi-gpu", at(euclidean(), LOSS), "if that is more than one GPU", severity="warning", gpu="all"),
    Broken(
        "reduction-axes",
        reduction(1),
        "Reduction takes the SUM over axis 1 and all after it, 3×2×2 values to one",
        "for axis 1 alone ChannelSumEuclideanLossLayer",
        "warning",
    ),
]

GOOD = [
    # A Python layer may have no top, where it is no loss.
    (
        "loss-top",
        euclidean() + 'layer { name: "see" type: "Python" bottom: "pred" '
        'python_param { module: "doctor_layers" layer: "NoTopLayer" } }',
    ),
    ("module-import", DATA + PRED + python("GoodLayer", "doctor_layers")),
    ("layer-class", euclidean()),
    ("method-signature", DATA + PRED + python("OwnForwardLayer", "doctor_layers")),
    ("method-signature", DATA + PRED + python("FreeNamesLayer", "doctor_layers")),
    ("method-signature", DATA + PRED + python("WeightLayer", "doctor_layers", bottoms=("pred", "target", "data"))),
    ("method-signature", DATA + PRED + python("OwnArrayForwardLayer", "doctor_layers")),
    ("method-signature", DATA + PRED + python("ArrayL1LossLayer", "user_losses")),
    ("method-signature", DATA + python("NoGradientsLayer", "doctor_layers", bottoms=("data", "target"))),
    ("method-signature", DATA + python("NoBackwardLayer", "doctor_layers", bottoms=("data",))),
    ("loss-weight-ignored", DATA + PRED + python("UnweightedLayer", "doctor_layers")),
    ("loss-weight-ignored", DATA + PRED + python("WeightedLayer", "doctor_layers", "loss_weight: 0.5")),
    ("loss-weight-ignored", DATA + PRED + python("HelpedLayer", "doctor_layers", "loss_weight: 0.5")),
    ("loss-weight-ignored", DATA + PRED + python("NothingWrittenLayer", "doctor_layers", "loss_weight: 0.5")),
    ("loss-weight-ignored", DATA + PRED + python("L1LossLayer", "user_losses", "loss_weight: 0.5")),
    ("loss-weight-ignored", euclidean(more="loss_weight: 0.5")),
    ("loss-weight", euclidean(more="loss_weight: 0")),
    ("loss-weight", euclidean(more="").replace("TRAIN", "TEST")),
    ("loss-weight", euclidean(more="") + SCALED.replace("}", "loss_weight: 1 }")),
    (
        "loss-weight",
        euclidean(more="") + SCALED + 'layer { name: "x" type: "Power" bottom: "scaled" top: "x" loss_weight: 2 }',
    ),
    ("loss-weight", COST.replace('"cost"', '"metric"') + REAL_LOSS),
    ("no-loss", COST + REAL_LOSS),
    ("no-loss", COST + REAL_LOSS.replace('top: "real"', "")),  # Caffe adds the top
    ("no-loss", COST.replace("TRAIN", "TEST")),
    ("no-loss", DATA.replace("include { phase: TRAIN }", "") + PRED),  # such as for caffe test, or extract_features
    ("no-loss", COST.replace("TRAIN", "TEST").replace("DummyData", "Input").replace("dummy_data", "input")),
    ("loss-weight-count", TWO_TOPS.replace("loss_weight: 1", "loss_weight: 1 loss_weight: 0")),
    ("fixed-convolution-zero", fixed(ZEROS).replace("TRAIN", "TEST")),
    ("fixed-convolution-trained", fixed(f"bias_term: false {ONES}", "").replace("TRAIN", "TEST")),
    ("label-gradient", softmax(LABELLER, "propagate_down: true propagate_down: false")),
    ("label-gradient", softmax(FROZEN_LABELLER)),
    ("label-gradient", softmax(FROZEN_LABELLER, "propagate_down: true propagate_down: true")),
    ("no-backward", softmax(VOTES + ARGMAX, "propagate_down: true propagate_down: false")),
    ("no-backward", softmax(FROZEN_VOTES + ARGMAX)),
    ("layer-type", CLASSIFIED),
    ("unread-param", weighted("transform_param { }").replace("transform_param { }", "")),
    ("unread-param", euclidean().replace("convolution_param {", "convolution_param { engine: CAFFE ")),
    ("negative-weight", weighted("", '{"class_weights": [1, 0, 1, 1, 1]}')),
    ("negative-weight", euclidean(more="loss_weight: 0")),
    ("softmax-twice", twice("Softmax", '"MultinomialLogisticLoss"')),
    ("softmax-twice", twice("ReLU")),
    ("softmax-twice", twice("Sigmoid")),
    (
        "softmax-twice",
        twice(
            "Softmax",
            '"Python" python_param { module: "pylayers" layer: "DiceLossLayer"'
            """ param_str: '{"activation": "NONE"}' }""",
        ),
    ),
    ("same-name", euclidean() + AGAIN.replace('name: "pred"', 'name: "again"') + SILENCE.replace("loss", "again")),
    ("same-name", RELUS),
    ("same-name", shared("param { name: 'w' } param { name: 'b' }")),
    ("param-str", with_param_str(euclidean(), '{"normalization": "FULL"}')),
    ("fixed-convolution-zero", fixed(f"bias_term: false {ONES}")),
    ("fixed-convolution-zero", fixed('weight_filler { type: "constant" }', "")),
    ("fixed-convolution-trained", fixed(ONES, "")),
    ("fixed-convolution-trained", fixed(ZEROS, "", "SigmoidCrossEntropyLoss")),
    ("fixed-convolution-trained", fixed(ONES, "param { lr_mult: 0 } param { lr_mult: 0 }")),
    ("reduction-axes", reduction(3)),
    ("reduction-axes", reduction(1, "dim: 4 dim: 3 dim: 1 dim: 1")),
    ("multi-gpu", DATA + PRED + 'layer { name: "loss" type: "EuclideanLoss" bottom: "pred" bottom: "target" }'),
]


# Caffe itself. What stands for it here is broken in the way of the rule, and does nothing else.

DESCRIPTORS = """TypeError('Descriptors cannot be created directly.\\nIf this call came from a _pb2.py file, ...')"""
ENVIRONMENTS = [
    ("caffe-missing", {"__init__.py": "from . import pycaffe", "pycaffe.py": "from ._caffe import Net"}, "_caffe.so"),
    ("caffe-missing", {"__init__.py": "VERSION = 2"}, "is not pycaffe"),
    (
        "caffe-other-python",
        {"__init__.py": "raise SystemError('initialization of _caffe')", "_caffe.so": "\x7fELF libpython2.7.so.1.0"},
        "_caffe.so is built for Python 2.7; this is 3.",
    ),
    (
        "caffe-other-python",
        {"__init__.py": "from . import _caffe", "_caffe.cpython-36m-x86_64-linux-gnu.so": ""},
        "is built for Python 3.6",
    ),
    ("caffe-other-python", "ImportError('_caffe.so: undefined symbol: PyClass_Type')", "for another Python"),
    (
        "caffe-library",
        "ImportError('libcaffe.so.1.0.0: cannot open shared object file: No such file or directory')",
        "Caffe's library libcaffe.so.1.0.0 is not found",
    ),
    (
        "caffe-library",
        "ImportError('libhdf5_hl.so.100: cannot open shared object file: No such file or directory')",
        "needs the library libhdf5_hl.so.100",
    ),
    ("caffe-protobuf", DESCRIPTORS, "Python's protobuf is newer"),
    ("caffe-protobuf", "ImportError(\"cannot import name 'builder' from 'google.protobuf.internal'\")", "is older"),
    ("caffe-protobuf", "ImportError('undefined symbol: _ZN6google8protobuf7Message')", "with another libprotobuf"),
    ("caffe-numpy", "ImportError('numpy.core.multiarray failed to import')", "headers of another NumPy"),
    ("caffe-numpy", "AttributeError('_ARRAY_API not found')", "headers of another NumPy"),
    ("caffe-protobuf", "RuntimeError('VersionError: Detected incompatible Protobuf Gencode/Runtime')", "is older"),
    ("caffe-library", "ImportError('this Caffe needs libcudart.so.12: pip install')", "CUDA's library libcudart.so.12"),
    ("caffe-dependency", "ModuleNotFoundError(\"No module named 'skimage'\")", "needs the package skimage"),
    ("caffe-import", "RuntimeError('out of cheese')", "import caffe fails"),
    (
        "caffe-other-python",
        {"__init__.py": "import os; os.abort()", "_caffe.so": "\x00libboost_python3-py35.so.1.58.0\x00"},
        "is built for Python 3.5",
    ),
    ("caffe-import", {"__init__.py": "import os; os.abort()"}, "import caffe ends the process with SIGABRT"),
    ("caffe-import", {"__init__.py": "raise SystemExit"}, "import caffe fails"),
]

RUNTIME = """
__version__ = "13.0"
class cuda:
    class runtime:
        runtimeGetVersion = staticmethod(lambda: {version})
        @staticmethod
        def getDeviceCount():
            {count}
"""
CUPYS = [
    ("cupy-missing", "raise ModuleNotFoundError('No module named', name='cupy')", "CuPy is not installed"),
    ("cupy-cuda", "raise ImportError('libcublas.so.11: cannot open shared object file')", "for another CUDA than"),
    ("cupy-cuda", "raise ImportError('broken')", "CuPy cannot be imported"),
    ("cupy-cuda", RUNTIME.format(version=11080, count="return 1"), "CuPy is for CUDA 11, Caffe for CUDA 12"),
    ("cupy-device", RUNTIME.format(version=12040, count="raise RuntimeError('insufficient driver')"), "no device"),
    ("cupy-device", RUNTIME.format(version=12040, count="return 0"), "no device"),
    ("cupy-device", RUNTIME.format(version=12040, count="return 1"), "CuPy does not compute"),
    ("cupy-device", "import os; os.abort()", "CuPy ends the process with SIGABRT"),
]
