r"""Feedback alignment and direct feedback alignment as a student would type them: numpy, float64, one loop a sentence.

A network is a list of layers, each a tuple: its kind, then its name and arrays if it has weights.

    ("linear", name, W (o, i), b or None)                 any number of leading dimensions
    ("conv", name, W (o, i/groups, k, k), b or None, stride, pad ((top, bottom), (left, right)), mode, dilation, groups)
    ("batch_norm", name, scale, offset, eps)              statistics of the batch, biased variance; maps only
    ("relu",) ("tanh",) ("flatten",) ("mean", axes) ("residual", [layers])

Imports nothing of the package that it judges.
"""

import numpy as np


def softmax_error(logits, y):
    """(softmax - one-hot) / n, the gradient of the mean cross-entropy at the logits; and that loss."""
    n = len(y)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(p[np.arange(n), y]).mean()
    p[np.arange(n), y] -= 1
    return p / n, loss


def one_hot(y, classes):
    """(n, classes)."""
    hot = np.zeros((len(y), classes))
    hot[np.arange(len(y)), y] = 1
    return hot


def forward(layers, x):
    """The output, and for every layer what its backward step needs to know: its input (a residual: its own notes)."""
    notes = []
    for kind, *rest in layers:
        if kind == "residual":
            inside, inner = forward(rest[0], x)
            notes.append(inner)
            x = x + inside
            continue
        notes.append(x)
        if kind == "linear":
            x = x @ rest[1].T + (0 if rest[2] is None else rest[2])
        elif kind == "conv":
            x = conv(x, *rest[1:])
        elif kind == "batch_norm":
            x = rest[1][:, None, None] * standardised(x, rest[3])[0] + rest[2][:, None, None]
        elif kind == "relu":
            x = np.maximum(x, 0)
        elif kind == "tanh":
            x = np.tanh(x)
        elif kind == "flatten":
            x = x.reshape(len(x), -1)
        elif kind == "mean":
            x = x.mean(rest[0])
        else:
            raise ValueError(kind)
    return x, notes


def backward(layers, notes, delta, feedback):
    """Send delta, the error at the output, to the input: through feedback[name] where there is one, else through W.

    Returns the error at the input, and name -> gradient of every weight and bias.
    """
    grads = {}
    for (kind, *rest), x in zip(reversed(layers), reversed(notes), strict=True):
        if kind == "linear":
            name, weight, bias = rest
            rows, inputs = delta.reshape(-1, delta.shape[-1]), x.reshape(-1, x.shape[-1])
            grads[name + ".weight"] = rows.T @ inputs
            if bias is not None:
                grads[name + ".bias"] = rows.sum(0)
            delta = delta @ feedback.get(name, weight)
        elif kind == "conv":
            name, weight, bias, *geometry = rest
            grads[name + ".weight"] = conv_weight_gradient(delta, x, weight.shape, *geometry)
            if bias is not None:
                grads[name + ".bias"] = delta.sum((0, 2, 3))
            delta = conv_input_gradient(delta, x.shape, feedback.get(name, weight), *geometry)
        elif kind == "batch_norm":
            name, scale, _, eps = rest
            z, deviation = standardised(x, eps)
            grads[name + ".weight"] = (delta * z).sum((0, 2, 3))
            grads[name + ".bias"] = delta.sum((0, 2, 3))
            delta = delta * scale[:, None, None]
            mean, along = (a.mean((0, 2, 3), keepdims=True) for a in (delta, delta * z))
            delta = (delta - mean - z * along) / deviation
        elif kind == "relu":
            delta = delta * (x > 0)
        elif kind == "tanh":
            delta = delta * (1 - np.tanh(x) ** 2)
        elif kind == "flatten":
            delta = delta.reshape(x.shape)
        elif kind == "mean":
            delta = np.broadcast_to(np.expand_dims(delta, rest[0]), x.shape) / np.prod([x.shape[a] for a in rest[0]])
        elif kind == "residual":
            through, inner = backward(rest[0], x, delta, feedback)
            grads |= inner
            delta = delta + through
    return delta, grads


def standardised(x, eps):
    """x (n, c, h, w) less the mean of its channel, over its deviation; and that deviation."""
    deviation = np.sqrt(x.var((0, 2, 3), keepdims=True) + eps)
    return (x - x.mean((0, 2, 3), keepdims=True)) / deviation, deviation


def feedback_alignment(layers, x, y, feedback):
    """delta_{l-1} = (delta_l B_l) * phi'(z_{l-1}), G_l = delta_l^T h_{l-1}; returns name -> gradient, and the loss."""
    logits, notes = forward(layers, x)
    error, loss = softmax_error(logits, y)
    return backward(layers, notes, error, feedback)[1], loss


def direct_feedback_alignment(blocks, x, y, feedback, teacher="error"):
    """delta at the output of hidden block l is e F_l, or t F_l for the target; the last block gets the exact error.

    blocks: list of lists of layers; feedback: one F (c, *shape of the block's output) a hidden block.
    """
    notes, h = [], x
    for block in blocks:
        h, note = forward(block, h)
        notes.append(note)
    error, loss = softmax_error(h, y)
    signal = error if teacher == "error" else one_hot(y, h.shape[1]) / len(y)
    _, grads = backward(blocks[-1], notes[-1], error, {})
    for block, note, matrix in zip(blocks[:-1], notes[:-1], feedback, strict=True):
        delta = np.tensordot(signal, matrix, axes=1)
        grads |= backward(block, note, delta, {})[1]
    return grads, loss


def conv(x, weight, bias, stride, pad, mode, dilation, groups):
    """Cross-correlation, position by position."""
    source, index = padded(x, pad, mode)
    o, i, kh, kw = weight.shape
    height, width = out_size(index.shape, (kh, kw), stride, dilation)
    out = np.zeros((len(x), o, height, width))
    for r in range(height):
        for c in range(width):
            patch = source[:, :, *window(r, c, kh, kw, stride, dilation)]
            for g in range(groups):
                mine = slice(g * o // groups, (g + 1) * o // groups)
                out[:, mine, r, c] = np.einsum("nikl,oikl->no", patch[:, g * i : (g + 1) * i], weight[mine])
    return out if bias is None else out + bias[:, None, None]


def conv_weight_gradient(delta, x, shape, stride, pad, mode, dilation, groups):
    """Sum over positions of delta times patch."""
    source, _ = padded(x, pad, mode)
    o, i, kh, kw = shape
    grad = np.zeros(shape)
    for r in range(delta.shape[2]):
        for c in range(delta.shape[3]):
            patch = source[:, :, *window(r, c, kh, kw, stride, dilation)]
            for g in range(groups):
                mine = slice(g * o // groups, (g + 1) * o // groups)
                grad[mine] += np.einsum("no,nikl->oikl", delta[:, mine, r, c], patch[:, g * i : (g + 1) * i])
    return grad


def conv_input_gradient(delta, shape, matrix, stride, pad, mode, dilation, groups):
    """Every position of delta hands its share, through the matrix, to the pixels of its patch."""
    source, index = padded(np.zeros(shape), pad, mode)
    o, i, kh, kw = matrix.shape
    spread = np.zeros_like(source)
    for r in range(delta.shape[2]):
        for c in range(delta.shape[3]):
            for g in range(groups):
                mine = slice(g * o // groups, (g + 1) * o // groups)
                share = np.einsum("no,oikl->nikl", delta[:, mine, r, c], matrix[mine])
                spread[:, g * i : (g + 1) * i, *window(r, c, kh, kw, stride, dilation)] += share
    # a padded pixel is a copy of the pixel that `index` names, or of none (-1)
    grad = np.zeros((*shape[:2], shape[2] * shape[3]))
    for r, c in np.argwhere(index >= 0):
        grad[:, :, index[r, c]] += spread[:, :, r, c]
    return grad.reshape(shape)


def padded(x, pad, mode):
    """x with its border, and for each pixel of the result the flat index of its source (-1: zero)."""
    names = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    index = np.arange(x.shape[2] * x.shape[3]).reshape(x.shape[2:])
    filler = {"constant_values": -1} if mode == "zeros" else {}
    index = np.pad(index, pad, mode=names[mode], **filler)
    flat = np.concatenate([x.reshape(*x.shape[:2], -1), np.zeros((*x.shape[:2], 1))], axis=2)
    return flat[:, :, index], index  # index -1 is the zero at the end


def window(r, c, kh, kw, stride, dilation):
    """Rows and columns that output position (r, c) looks at."""
    rows = slice(r * stride[0], r * stride[0] + (kh - 1) * dilation[0] + 1, dilation[0])
    return rows, slice(c * stride[1], c * stride[1] + (kw - 1) * dilation[1] + 1, dilation[1])


def out_size(size, kernel, stride, dilation):
    """Positions per dimension of an already padded map."""
    return [(s - (k - 1) * d - 1) // st + 1 for s, k, st, d in zip(size, kernel, stride, dilation, strict=True)]
