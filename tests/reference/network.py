"""Networks as plain lists, in float64 numpy, with the loops written out.

n batch, i in, o out, c classes; maps are (n, channels, height, width). A network is a list of layers:

    ("linear", W (o, i), b (o) or None)
    ("conv", W (o, i / groups, kh, kw), b (o) or None, stride, padding, dilation, groups)    numbers or (height, width)
    ("relu",) ("leaky_relu", slope) ("tanh",) ("sigmoid",) ("gelu",) ("identity",)
    ("maxpool2",) ("avgpool2",) ("flatten",)                                windows 2 x 2, an odd last row is dropped

Gradients are dicts "<index of the layer>.weight" and "<index>.bias" -> array of the parameter's shape.
"""

import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray
Layer = tuple
WEIGHTED = ("linear", "conv")


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


# --- activations and their derivatives, element by element -----------------------------------------------------------


def phi(layer: Layer, z: Array) -> Array:
    if layer[0] == "relu":
        return np.where(z > 0, z, 0.0)
    if layer[0] == "leaky_relu":
        return np.where(z > 0, z, layer[1] * z)
    if layer[0] == "tanh":
        return np.tanh(z)
    if layer[0] == "sigmoid":
        return 1 / (1 + np.exp(-z))
    if layer[0] == "gelu":
        return z * normal_cdf(z)
    assert layer[0] == "identity", layer[0]
    return z


def phi_prime(layer: Layer, z: Array) -> Array:
    """The derivative; 0 (relu) or the slope (leaky relu) at z = 0, as torch has it."""
    if layer[0] == "relu":
        return np.where(z > 0, 1.0, 0.0)
    if layer[0] == "leaky_relu":
        return np.where(z > 0, 1.0, layer[1])
    if layer[0] == "tanh":
        return 1 - np.tanh(z) ** 2
    if layer[0] == "sigmoid":
        return phi(layer, z) * (1 - phi(layer, z))
    if layer[0] == "gelu":
        return normal_cdf(z) + z * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    assert layer[0] == "identity", layer[0]
    return np.ones_like(z)


def normal_cdf(z: Array) -> Array:
    return 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))


# --- convolution: one output pixel at a time -------------------------------------------------------------------------


def conv_windows(layer: Layer, x_shape: Sequence[int]):
    """For every output channel and pixel (o, p, q): the slices of the padded input that its kernel W[o] sees."""
    _, W, _, stride, padding, dilation, groups = layer
    outs, ins, kh, kw = W.shape
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    height = (x_shape[2] + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    width = (x_shape[3] + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    for o in range(outs):
        group = o // (outs // groups)
        channels = slice(group * ins, (group + 1) * ins)
        for p in range(height):
            rows = slice(p * sh, p * sh + dh * (kh - 1) + 1, dh)
            for q in range(width):
                yield (o, p, q), (slice(None), channels, rows, slice(q * sw, q * sw + dw * (kw - 1) + 1, dw))


def padded(layer: Layer, x: Array) -> Array:
    ph, pw = pair(layer[4])
    return np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))


def conv_forward(layer: Layer, x: Array) -> Array:
    W, b, x_padded = layer[1], layer[2], padded(layer, x)
    windows = list(conv_windows(layer, x.shape))
    _, height, width = (last + 1 for last in windows[-1][0])
    z = np.zeros((len(x), len(W), height, width))
    for (o, p, q), window in windows:
        z[:, o, p, q] = (x_padded[window] * W[o]).sum((1, 2, 3)) + (0 if b is None else b[o])
    return z


def conv_weight_gradient(layer: Layer, x: Array, delta: Array) -> Array:
    """G[o] = sum over samples and pixels of delta[o, p, q] times the window that pixel sees."""
    G, x_padded = np.zeros(layer[1].shape), padded(layer, x)
    for (o, p, q), window in conv_windows(layer, x.shape):
        G[o] += (delta[:, o, p, q][:, None, None, None] * x_padded[window]).sum(0)
    return G


def conv_error_to_input(layer: Layer, B: Array, x_shape: Sequence[int], delta: Array) -> Array:
    """Every output pixel sends delta[o, p, q] B[o] back to the window it saw; the padding's share is dropped."""
    ph, pw = pair(layer[4])
    back = np.zeros((x_shape[0], x_shape[1], x_shape[2] + 2 * ph, x_shape[3] + 2 * pw))
    for (o, p, q), window in conv_windows(layer, x_shape):
        back[window] += delta[:, o, p, q][:, None, None, None] * B[o]
    return back[:, :, ph : ph + x_shape[2], pw : pw + x_shape[3]]


# --- pools: one window at a time -------------------------------------------------------------------------------------


def pool_forward(layer: Layer, x: Array) -> Array:
    out = np.zeros((*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2))
    for p, q in np.ndindex(*out.shape[2:]):
        window = x[:, :, 2 * p : 2 * p + 2, 2 * q : 2 * q + 2]
        out[:, :, p, q] = window.max((2, 3)) if layer[0] == "maxpool2" else window.mean((2, 3))
    return out


def pool_backward(layer: Layer, x: Array, delta: Array) -> Array:
    """The maximum's pixel (the first of equal ones) gets the error; the mean gives every pixel a quarter."""
    back = np.zeros(x.shape)
    for n, ch, p, q in np.ndindex(*delta.shape):
        window = x[n, ch, 2 * p : 2 * p + 2, 2 * q : 2 * q + 2]
        if layer[0] == "maxpool2":
            row, column = np.unravel_index(window.argmax(), (2, 2))
            back[n, ch, 2 * p + row, 2 * q + column] += delta[n, ch, p, q]
        else:
            back[n, ch, 2 * p : 2 * p + 2, 2 * q : 2 * q + 2] += delta[n, ch, p, q] / 4
    return back


# --- whole layers and networks ---------------------------------------------------------------------------------------


def layer_forward(layer: Layer, x: Array) -> Array:
    if layer[0] == "linear":
        return x @ layer[1].T + (0 if layer[2] is None else layer[2])
    if layer[0] == "conv":
        return conv_forward(layer, x)
    if layer[0] in ("maxpool2", "avgpool2"):
        return pool_forward(layer, x)
    return x.reshape(len(x), -1) if layer[0] == "flatten" else phi(layer, x)


def forward(layers: Sequence[Layer], x: Array) -> list[Array]:
    """[x, output of layer 0, output of layer 1, ...]."""
    values = [np.asarray(x, dtype=np.float64)]
    for layer in layers:
        values.append(layer_forward(layer, values[-1]))
    return values


def error_to_input(layer: Layer, x: Array, delta: Array, B: Array | None = None) -> Array:
    """The error at a layer's input x from the error `delta` at its output; B goes back where the weights went forth."""
    B = layer[1] if layer[0] in WEIGHTED and B is None else B
    if layer[0] == "linear":
        return delta @ B
    if layer[0] == "conv":
        return conv_error_to_input(layer, B, x.shape, delta)
    if layer[0] in ("maxpool2", "avgpool2"):
        return pool_backward(layer, x, delta)
    return delta.reshape(x.shape) if layer[0] == "flatten" else delta * phi_prime(layer, x)


def parameter_gradients(name: str, layer: Layer, x: Array, delta: Array) -> dict[str, Array]:
    """{"<name>.weight": ..., "<name>.bias": ...} from the input x and the error at the output; sums over the batch."""
    if layer[0] not in WEIGHTED:
        return {}
    G = delta.T @ x if layer[0] == "linear" else conv_weight_gradient(layer, x, delta)
    gradients = {f"{name}.weight": G}
    if layer[2] is not None:
        gradients[f"{name}.bias"] = delta.sum(tuple(axis for axis in range(delta.ndim) if axis != 1))
    return gradients


# --- losses ----------------------------------------------------------------------------------------------------------


def one_hot(y: Array, classes: int) -> Array:
    return np.eye(classes)[y]


def softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def loss_value(logits: Array, y: Array, loss: str = "cross_entropy") -> float:
    """The criterion as torch averages it.

    `cross_entropy`: mean over the batch, y class numbers (n).
    `mse`: torch's MSELoss, the mean over batch AND outputs of (logits - y)^2 without a factor 1/2, y targets (n, c).
    """
    if loss == "mse":
        return float(((logits - y) ** 2).mean())
    return float(-np.log(softmax(logits)[np.arange(len(y)), y]).mean())


def output_error(logits: Array, y: Array, loss: str = "cross_entropy") -> Array:
    """e (n, c): the gradient of `loss_value` at the logits, so already divided by the batch size."""
    if loss == "mse":
        return 2 * (logits - y) / logits.size
    return (softmax(logits) - one_hot(y, logits.shape[1])) / len(y)
