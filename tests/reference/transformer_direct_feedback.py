"""Direct feedback alignment in a BERT and in a vision transformer, as a student would type it (Launay et al. 2020).

The forward pass is written out from a dictionary of weights. At every feedback point the graph ends: a segment is run
from detached inputs, and its weights' gradients are those of <output, delta> with delta[n, t] = share[n, t] * e[n] F.
The head's are the true ones. float64.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Point = tuple[str, Callable[[dict[str, Tensor]], Tensor]]  # from the outputs of earlier points to this one's


def linear(W: Weights, name: str, x: Tensor) -> Tensor:
    return x @ W[f"{name}.weight"].T + W[f"{name}.bias"]


def layer_norm(W: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
    return (x - mean) / (variance + eps).sqrt() * W[f"{name}.weight"] + W[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int) -> Tensor:
    """One text and one head at a time; padding is never looked at."""
    d, rows = q.shape[-1] // heads, []
    for n in range(len(q)):
        seen = mask[n].bool()
        cells = []
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            scores = q[n][:, part] @ k[n][seen][:, part].T / math.sqrt(d)
            cells.append(scores.softmax(-1) @ v[n][seen][:, part])
        rows.append(torch.cat(cells, -1))
    return torch.stack(rows)


def bert_points(W: Weights, inputs: Tensor, heads: int, layers: int, preset: str) -> list[Point]:
    ids, mask, types = inputs.unbind(1)

    def embedded() -> Tensor:
        table = "bert.embeddings"
        x = W[f"{table}.word_embeddings.weight"][ids] + W[f"{table}.token_type_embeddings.weight"][types]
        x = x + W[f"{table}.position_embeddings.weight"][: ids.shape[1]]
        return layer_norm(W, f"{table}.LayerNorm", x, 1e-12)

    def attention(name: str, x: Tensor) -> Tensor:
        q, k, v = (linear(W, f"{name}.attention.self.{role}", x) for role in ("query", "key", "value"))
        mixed = linear(W, f"{name}.attention.output.dense", attend(q, k, v, mask, heads))
        return layer_norm(W, f"{name}.attention.output.LayerNorm", mixed + x, 1e-12)

    def intermediate(name: str, a: Tensor) -> Tensor:
        return gelu(linear(W, f"{name}.intermediate.dense", a))

    def output(name: str, i: Tensor, a: Tensor) -> Tensor:
        return layer_norm(W, f"{name}.output.LayerNorm", linear(W, f"{name}.output.dense", i) + a, 1e-12)

    def whole(name: str, x: Tensor) -> Tensor:
        a = attention(name, x)
        return output(name, intermediate(name, a), a)

    points, before = [], None
    for number in range(layers):
        name = f"bert.encoder.layer.{number}"

        def enter(seen: dict, before: str | None = before) -> Tensor:
            return embedded() if before is None else seen[before]

        if preset == "macro":
            points.append((name, lambda seen, name=name, enter=enter: whole(name, enter(seen))))
            before = name
            continue
        parts = a, i, before = f"{name}.attention.output", f"{name}.intermediate", f"{name}.output"
        runs = (
            lambda seen, name=name, enter=enter: attention(name, enter(seen)),
            lambda seen, name=name, a=a: intermediate(name, seen[a]),
            lambda seen, name=name, a=a, i=i: output(name, seen[i], seen[a]),
        )
        points += zip(parts, runs, strict=True)
    return points


def bert_head(W: Weights, x: Tensor) -> Tensor:
    return linear(W, "classifier", torch.tanh(linear(W, "bert.pooler.dense", x[:, 0])))


def vit_points(W: Weights, images: Tensor, patch: int, heads: int, layers: int, preset: str) -> list[Point]:
    """timm's: pre-normalisation, a class token, eps 1e-6. The stream around a block's parts is cut with its input."""
    n, _, height, width = images.shape

    def embedded() -> Tensor:
        kernel = W["patch_embed.proj.weight"].flatten(1)
        corners = [(y, x) for y in range(0, height, patch) for x in range(0, width, patch)]
        patches = [images[:, :, y : y + patch, x : x + patch].flatten(1) for y, x in corners]
        tokens = [p @ kernel.T + W["patch_embed.proj.bias"] for p in patches]
        return torch.stack([W["cls_token"][0, 0].expand(n, -1), *tokens], 1) + W["pos_embed"]

    def attention(name: str, x: Tensor) -> Tensor:
        qkv = linear(W, f"{name}.attn.qkv", layer_norm(W, f"{name}.norm1", x, 1e-6)).chunk(3, -1)
        return linear(W, f"{name}.attn.proj", attend(*qkv, torch.ones(x.shape[:2]), heads))

    def activation(name: str, x: Tensor, a: Tensor) -> Tensor:
        return gelu(linear(W, f"{name}.mlp.fc1", layer_norm(W, f"{name}.norm2", x + a, 1e-6)))

    def output(name: str, x: Tensor, a: Tensor, i: Tensor) -> Tensor:
        return x + a + linear(W, f"{name}.mlp.fc2", i)

    def whole(name: str, x: Tensor) -> Tensor:
        a = attention(name, x)
        return output(name, x, a, activation(name, x, a))

    points, before = ([("norm_pre", lambda seen: embedded())], "norm_pre") if preset == "micro" else ([], None)
    for number in range(layers):
        name = f"blocks.{number}"
        if preset == "macro":
            points.append((name, lambda s, m=name, b=before: whole(m, embedded() if b is None else s[b])))
        else:
            a, i = f"{name}.attn", f"{name}.mlp.act"
            points.append((a, lambda s, m=name, b=before: attention(m, s[b])))
            points.append((i, lambda s, m=name, b=before, a=a: activation(m, s[b], s[a])))
            points.append((name, lambda s, m=name, b=before, a=a, i=i: output(m, s[b], s[a], s[i])))
        before = name
    return points


def vit_head(W: Weights, x: Tensor) -> Tensor:
    return linear(W, "head", layer_norm(W, "norm", x, 1e-6)[:, 0])


def share(kind: str, mask: Tensor, n: int, t: int) -> float:
    """What token t of text n gets of its text's projected error."""
    tokens = mask[n].sum().item()
    if not mask[n, t]:
        return 0.0
    return {"all": 1 / math.sqrt(tokens), "mean": 1 / tokens, "first": float(t == 0)}[kind]


def grads(
    W: Weights,
    points: list[Point],
    head: Callable[[Weights, Tensor], Tensor],
    labels: Tensor,
    feedback: dict[str, Tensor],
    mask: Tensor,
    kind: str,
    loss: str = "cross_entropy",
) -> Weights:
    """Name to gradient, zero where a weight takes no part.

    Args:
        W: weights that require gradients.
        points: feedback points in the order of the forward pass.
        head: from the last point's output to logits.
        labels: (n,) classes, or numbers under `mse`.
        feedback: point to F (c, d).
        mask: (n, t).
        kind: all, mean or first.
        loss: `cross_entropy`, or `mse` for one output.
    """
    total, seen = {name: torch.zeros_like(w) for name, w in W.items()}, {}

    def learn(output: Tensor, delta: Tensor) -> None:
        found = torch.autograd.grad(output, list(W.values()), delta, allow_unused=True)
        for name, gradient in zip(W, found, strict=True):
            total[name] += 0 if gradient is None else gradient

    outputs = []
    for name, run in points:
        outputs.append((name, run(seen)))
        seen[name] = outputs[-1][1].detach()
    logits = head(W, seen[points[-1][0]])
    if loss == "mse":
        error = 2 * (logits.detach() - labels[:, None]) / len(labels)
    else:
        error = (logits.detach().softmax(-1) - torch.eye(logits.shape[1], dtype=logits.dtype)[labels]) / len(labels)
    learn(logits, error)
    for name, output in outputs:
        delta = torch.zeros_like(output)
        for n in range(output.shape[0]):
            for t in range(output.shape[1]):
                delta[n, t] = share(kind, mask, n, t) * (error[n] @ feedback[name])
        learn(output, delta)
    return total
