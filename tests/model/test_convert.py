"""From networks to `.tflite`: the same outputs, raw pixels in, the operators that the architecture says, its size."""

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tests.joined  # noqa: F401 -- a kind of block for branches
from edgenas.architecture import Architecture, Layer
from edgenas.deploy.describing import described
from edgenas.errors import CheckFailedError, InputError
from edgenas.evaluation.data import load_dataset
from edgenas.latency.memory import model_kb
from edgenas.model import (
    Precision,
    build_model,
    convert,
    convert_layer,
    convert_network,
    converter_version,
    fold,
    input_of,
    keras_on_tensorflow,
    run_tflite,
)
from edgenas.model.builder import node_of
from edgenas.model.convert import _convert, check_input
from edgenas.space import MobileSpace

PLAIN = Architecture.parse(
    "input_28x28x1 conv_k3_s2_c16_relu6 mbconv_k3_e3_s1_c16_relu6 mbconv_k5_e6_s2_c24_se0.25_relu6 "
    "mbconv_k7_e1_s1_c24_relu6 head_c64_relu6 dense_n10"
)
HARDSWISH = Architecture.parse(str(PLAIN).replace("relu6", "hardswish"))
COLOUR = Architecture.parse(
    "input_33x30x3 conv_k5_s4_c8_relu mbconv_k3_e6_s2_c16_se0.25_relu mbconv_k3_e6_s1_c16_se0.25_relu "
    "head_c32_relu dense_n5"
)
BRANCHED = Architecture.parse(
    "input_28x28x1 conv_k3_s2_c8_relu6 mbconv_k3_e3_s1_c16_relu6 conv_k1_s1_c16_relu6@1 joined@2,3 head_c32_relu6 "
    "dense_n10"
)
NETWORKS = {"plain": PLAIN, "hardswish": HARDSWISH, "colour": COLOUR, "branched": BRANCHED}
both_precisions = pytest.mark.parametrize("precision", ["float32", "int8"])
every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


def settled(network: Architecture, images: np.ndarray) -> Any:
    """A model with random weights whose statistics are those of these images, as after training."""
    keras = keras_on_tensorflow()
    keras.utils.set_random_seed(1)
    model = build_model(network)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images.astype(np.float32), training=True)
    return model


@functools.cache
def converted(network: Architecture, precision: Precision) -> bytes:
    return convert_network(network, precision)


def images_for(network: Architecture, count: int = 100) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *network.input_shape)).astype(np.float32)


@functools.cache
def at_home(network: Architecture) -> Any:
    """A model that `images_for` has settled. Nobody may change it; `folded_at_home` neither."""
    return settled(network, images_for(network))


@functools.cache
def folded_at_home(network: Architecture) -> Any:
    return fold(at_home(network))


@functools.cache
def file_at_home(network: Architecture, precision: Precision, folded: bool = False) -> bytes:
    model = folded_at_home(network) if folded else at_home(network)
    return convert(model, precision, images_for(network))


def tensors_of(content: bytes, kind: str) -> list[str]:
    """The names of a file's activations of one type."""
    details = [each for each in interpreter(content).get_tensor_details() if len(each["shape"]) == 4]
    return [each["name"] for each in details if each["dtype"].__name__.upper() == kind]


def interpreter(content: bytes) -> Any:
    """Without XNNPACK, which would hide the operators that it takes over."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    made = Interpreter(model_content=content, experimental_op_resolver_type=plain)
    made.allocate_tensors()
    return made


def operators(content: bytes) -> list[str]:
    """TFLite's names in order, spelled as `Operator.kind`, without the "_"."""
    return [each["op_name"].lower().replace("_", "") for each in interpreter(content)._get_ops_details()]


@pytest.fixture(scope="module", params=["digits", "fashion-mnist"])
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """[300, 28, 28, 1] real ones."""
    try:
        data = load_dataset(request.param, (28, 28, 1), cache=tmp_path_factory.mktemp("cache"))
    except InputError as error:
        pytest.skip(str(error))
    chosen: np.ndarray = data.x[np.linspace(0, len(data.x) - 1, 300).astype(int)]
    return np.ascontiguousarray(chosen)


@pytest.mark.parametrize("network", [PLAIN, HARDSWISH, BRANCHED], ids=["plain", "hardswish", "branched"])
def test_keras_and_tflite_agree_on_real_images(network: Architecture, images: np.ndarray) -> None:
    model = settled(network, images[:64])
    expected = model.predict(images.astype(np.float32), verbose=0)
    found = run_tflite(convert(model, "float32"), images)
    assert expected.std() > 0.05  # it says something about each image
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.99


def test_int8_follows_keras_on_real_images(images: np.ndarray) -> None:
    model = settled(PLAIN, images[:64])
    expected = model.predict(images.astype(np.float32), verbose=0)
    content = convert(model, "int8", images[:64])
    output = interpreter(content).get_output_details()[0]
    scale, zero_point = output["quantization"]
    found = (run_tflite(content, images).astype(float) - zero_point) * scale
    assert run_tflite(content, images).dtype == np.uint8
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.97


@pytest.mark.parametrize(("low", "high"), [(3, 180), (0, 255), (100, 101)])
def test_int8_takes_raw_pixels_whatever_it_was_calibrated_on(low: int, high: int) -> None:
    calibration = np.random.default_rng(0).uniform(low, high, (8, 28, 28, 1)).astype(np.float32)
    found = input_of(convert(settled(PLAIN, calibration), "int8", calibration))
    assert (found.dtype, found.scale, found.zero_point, found.shape) == ("uint8", 1.0, 0, (1, 28, 28, 1))


@pytest.mark.parametrize(("name", "folded"), [("plain", False), ("plain", True), ("colour", True)])
def test_layers_that_stay_in_float32(name: str, folded: bool) -> None:
    """Those and no others; raw pixels in, the same answers out."""
    network = NETWORKS[name]
    shown = images_for(network)
    model = folded_at_home(network) if folded else at_home(network)
    content = convert(model, "int8", shown, (1, 3))
    floats = {node_of(tensor) for tensor in tensors_of(content, "FLOAT32")} - {None}
    assert floats == {1, 3}
    check_input(content, "int8")
    whole, none = (file_at_home(network, precision, folded) for precision in ("float32", "int8"))
    assert len(none) < len(content) < len(whole)
    expected = run_tflite(whole, shown).argmax(axis=1)
    assert (run_tflite(content, shown).argmax(axis=1) == expected).mean() >= 0.85
    assert convert(model, "int8", shown, ()) == none


def test_a_layer_that_cannot_stay_in_float32_is_named() -> None:
    with pytest.raises(CheckFailedError, match=r"asked to leave layers \[0\] in float32, and did not"):
        convert(folded_at_home(COLOUR), "int8", images_for(COLOUR), (0, 3))


@every_network
def test_float32_takes_raw_pixels(network: Architecture) -> None:
    found = input_of(converted(network, "float32"))
    assert (found.dtype, found.scale, found.zero_point) == ("float32", 0.0, 0)
    assert found.shape == (1, *network.input_shape)


@every_network
@both_precisions
def test_the_operators_are_those_of_the_architecture(network: Architecture, precision: Precision) -> None:
    stated = [each.kind.replace("_", "") for layer in network.layers() for each in layer.operators]
    assert stated[0] == "mul"  # the converter folds the scaling of pixels into the first convolution
    found = operators(converted(network, precision))
    if precision == "int8":
        assert (found[0], found[-1]) == ("quantize", "quantize")
        found = found[1:-1]
    assert found == stated[1:]


@every_network
@both_precisions
def test_only_builtin_operators(network: Architecture, precision: Precision) -> None:
    content = converted(network, precision)
    assert b"Flex" not in content
    assert not {name for name in operators(content) if name.startswith(("flex", "custom", "delegate"))}


@every_network
def test_the_parameters_are_those_of_keras(network: Architecture) -> None:
    model = build_model(network)
    kind = keras_on_tensorflow().layers.BatchNormalization
    normalised = sum(int(layer.gamma.shape[0]) for layer in model.layers if isinstance(layer, kind))
    # A batch normalisation has four numbers a channel; folded, one is left: the bias.
    assert model.count_params() - 3 * normalised == network.parameters
    assert model.output_shape == (None, network.classes)


@both_precisions
@pytest.mark.parametrize(("name", "shape"), [("tiny", (28, 28, 1)), ("standard", (96, 96, 3))])
def test_the_size_of_the_file_is_foretold(name: str, shape: tuple[int, int, int], precision: Precision) -> None:
    space = MobileSpace(name, shape, 10)
    # The seed is not one that the estimate was fitted on.
    networks = [space.smallest, *space.decode_codes(space.sample(np.random.default_rng(77), 1))]
    for network, estimate in zip(networks, model_kb(networks, precision), strict=True):
        labels = [f"label {number}" for number in range(10)]
        real = len(described(converted(network, precision), "study", network, precision, labels, "pad")) / 1024
        assert abs(estimate / real - 1) < 0.015, f"{network.id}: {estimate:.1f} kB estimated, {real:.1f} kB in fact"


@both_precisions
@pytest.mark.parametrize("text", ["input_8x8x1@8x8x1", "mbconv_k5_e3_s2_c16_se0.25_relu6@9x9x8", "dense_n4@1x1x8"])
def test_a_layer_alone_runs(text: str, precision: Precision) -> None:
    layer = Layer.parse(text)
    made = interpreter(convert_layer(layer, precision))
    given, wanted = made.get_input_details()[0], made.get_output_details()[0]
    assert tuple(given["shape"]) == (1, *layer.input_shapes[0])
    kind = np.float32 if precision == "float32" else (np.uint8 if text.startswith("input") else np.int8)
    assert given["dtype"] == kind
    made.invoke()
    assert int(np.prod(wanted["shape"])) == int(np.prod(layer.output_shape))


def test_a_layer_with_two_inputs_runs() -> None:
    made = interpreter(convert_layer(Layer.parse("joined@4x4x8+4x4x8"), "int8"))
    assert len(made.get_input_details()) == 2
    made.invoke()


def test_another_input_quantisation_is_refused() -> None:
    calibration = np.random.default_rng(0).uniform(3, 180, (8, 28, 28, 1)).astype(np.float32)
    # What the converter makes of these pixels alone.
    content = _convert(settled(PLAIN, calibration), [(28, 28, 1)], [[image[None]] for image in calibration], "uint8")
    assert input_of(content).scale == pytest.approx(180 / 255, rel=0.01)
    with pytest.raises(CheckFailedError, match=r"does not take raw pixels: expected .*\('uint8', 1\.0, 0\).*0\.70"):
        check_input(content, "int8")
    with pytest.raises(CheckFailedError, match="does not take raw pixels"):
        check_input(content, "float32")


def test_int8_without_calibration_images_is_refused() -> None:
    with pytest.raises(ValueError, match="int8 needs calibration images"):
        convert(build_model(PLAIN), "int8", np.zeros((0, 28, 28, 1), np.float32))


def test_a_file_without_its_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    small = converted(PLAIN, "float32")
    # convert() the function hides the module of that name.
    module = sys.modules["edgenas.model.convert"]
    monkeypatch.setattr(module, "_convert", lambda *_: small)
    large = Architecture.parse(str(PLAIN).replace("head_c64", "head_c2048"))
    with pytest.raises(CheckFailedError, match="left weights out"):
        convert(build_model(large), "float32")


def test_a_model_is_kept_and_read_again(tmp_path: Path) -> None:
    keras = keras_on_tensorflow()
    model = settled(BRANCHED, np.random.default_rng(0).uniform(0, 255, (4, 28, 28, 1)))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert convert(again, "float32") == convert(model, "float32")


def test_the_same_network_converts_to_the_same_bytes() -> None:
    assert convert_network(COLOUR, "int8") == converted(COLOUR, "int8")


def test_the_converters_version_is_known() -> None:
    assert converter_version().startswith("tensorflow 2.")


def test_a_block_without_a_builder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgenas.model.builder import _build

    with pytest.raises(TypeError, match="no Keras builder for Unbuilt"):
        _build.dispatch(object)(type("Unbuilt", (), {})(), [])


def test_a_pool_converts_once(tmp_path: Path) -> None:
    from edgenas.model import ConversionPool

    layers = [Layer.parse("dense_n4@1x1x8"), Layer.parse("dense_n5@1x1x8")]
    with ConversionPool(tmp_path, "float32", workers=1) as pool:
        jobs = pool.submit(layers)
        for path, future in jobs:
            assert future is not None
            future.result(120)
            assert input_of(path.read_bytes()).shape == (1, 1, 1, 8)
        assert [future for _, future in pool.submit(layers)] == [None, None]
        assert pool.path(layers[0]) == jobs[0][0]
    assert len({path for path, _ in jobs}) == len(list(tmp_path.iterdir())) == 2
