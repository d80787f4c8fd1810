"""param_str: every rule, and the whole message that breaking it gives."""

import pytest

from pylayers.params import Boolean, Choice, Integer, Numbers, parse

OPTIONS = {"axis": Integer(1), "normalization": Choice("VALID", "FULL"), "class_weights": Numbers(None)}


@pytest.mark.parametrize("text", ["", "  \n", "{}"])
def test_defaults(text):
    values = parse(text, OPTIONS)
    assert (values.axis, values.normalization, values.class_weights) == (1, "VALID", None)


def test_values():
    values = parse('{"axis": -2, "normalization": "FULL", "class_weights": [1, 0.5, -3e2]}', OPTIONS)
    assert (values.axis, values.normalization, values.class_weights) == (-2, "FULL", [1.0, 0.5, -300.0])


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "{'axis': 1}",
            ValueError,
            "param_str is not JSON (Expecting property name enclosed in double quotes at character 2), found "
            """"{'axis': 1}"; write it as param_str: '{"key": "value"}', with double quotes inside""",
        ),
        ("axis: 1", ValueError, "param_str is not JSON (Expecting value at character 1), found 'axis: 1'; write "),
        ("[1]", ValueError, """param_str must be a JSON object such as {"key": "value"}, found '[1]'"""),
        ('{"axis": 1, "axis": 2}', ValueError, 'param_str has the key "axis" 2 times; give it once'),
        ('{"axis": NaN}', ValueError, "param_str holds NaN, which is not JSON; numbers must be finite"),
        ('{"class_weights": [Infinity]}', ValueError, "param_str holds Infinity, which is not JSON; numbers must be"),
        (
            '{"loss_weight": 2}',
            ValueError,
            '"loss_weight" (loss_weight is a field of the layer: write it beside python_param); it takes "axis", "norm',
        ),
        ('{"normalisation": "FULL"}', ValueError, 'unknown key "normalisation" (did you mean "normalization"?)'),
        ('{"axis": 16777217}', ValueError, '"axis" must be a whole number from -16777216 to 16777216, found 16777217'),
        ("[" * 100000, ValueError, "param_str is nested too deeply; it takes one JSON object"),
        (
            '{"axis": 1.0}',
            TypeError,
            'param_str key "axis" must be a whole number from -16777216 to 16777216, found 1.0',
        ),
        (
            '{"axis": true}',
            TypeError,
            'param_str key "axis" must be a whole number from -16777216 to 16777216, found true',
        ),
        (
            '{"axis": null}',
            TypeError,
            'param_str key "axis" must be a whole number from -16777216 to 16777216, found null',
        ),
        (
            '{"normalization": "NONE"}',
            ValueError,
            'param_str key "normalization" must be one of "VALID", "FULL", found "NONE"',
        ),
        ('{"normalization": ["FULL"]}', TypeError, 'must be one of "VALID", "FULL", found ["FULL"]'),
        ('{"class_weights": [1, false]}', TypeError, "must be a list of finite numbers, at least one, found [1, fa"),
        ('{"class_weights": [1e400]}', ValueError, "must be a list of finite numbers, at least one, found [Inf"),
        (
            '{"class_weights": [1' + "0" * 400 + "]}",
            ValueError,
            "must be a list of finite numbers, at least one, found",
        ),
    ],
)
def test_rejects(text, error, message):
    with pytest.raises(error) as raised:
        parse(text, OPTIONS)
    assert message in str(raised.value)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_boolean(text, value):
    assert parse(f'{{"squared": {text}}}', {"squared": Boolean(False)}).squared is value
    assert parse("", {"squared": Boolean(value)}).squared is value


@pytest.mark.parametrize("text", ["1", "0", '"true"', "null", "[true]"])
def test_boolean_takes_nothing_else(text):
    with pytest.raises(TypeError) as raised:
        parse(f'{{"squared": {text}}}', {"squared": Boolean(False)})
    assert str(raised.value) == f'param_str key "squared" must be true or false, found {text}'


def test_a_layer_without_options_says_so():
    with pytest.raises(ValueError, match='unknown key "axis"; it takes no keys'):
        parse('{"axis": 1}', {})
