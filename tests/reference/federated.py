"""Federated algorithms as their papers print them, for a network of one hidden layer: z = W2 tanh(W1 x + b1) + b2.

Clients, their batches and their sizes are given; softmax cross-entropy, plain or heavy-ball SGD at the clients, and at
the server the step that the paper prescribes. One function a formula, nothing shared with the implementation.
"""

import numpy as np

Net = dict[str, np.ndarray]


def hidden(net: Net, x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ net["W1"].T + net["b1"])


def gradient(net: Net, x: np.ndarray, y: np.ndarray, at_hidden=None) -> Net:
    """Of the mean cross-entropy; `at_hidden(h)` is the gradient of a penalty at the hidden layer."""
    h = hidden(net, x)
    z = h @ net["W2"].T + net["b2"]
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    e = p / len(y)
    dh = e @ net["W2"] + (at_hidden(h) if at_hidden else 0)
    d1 = dh * (1 - h**2)
    return {"W1": d1.T @ x, "b1": d1.sum(0), "W2": e.T @ h, "b2": e.sum(0)}


def local_sgd(net: Net, batches: list, lr: float, momentum: float, edit, at_hidden=None) -> Net:
    """`edit(gradient, net)` is what the algorithm makes of the gradient."""
    net = {k: v.copy() for k, v in net.items()}
    velocity = {k: np.zeros_like(v) for k, v in net.items()}
    for x, y in batches:
        g = edit(gradient(net, x, y, at_hidden), net)
        for k in net:
            velocity[k] = momentum * velocity[k] + g[k]
            net[k] = net[k] - lr * velocity[k]
    return net


def unchanged(g: Net, net: Net) -> Net:
    return g


def average(nets: list[Net], weights) -> Net:
    return {k: sum(w * net[k] for w, net in zip(weights, nets, strict=True)) for k in nets[0]}


def fed_avg(net: Net, rounds: list, lr: float, momentum: float = 0.0) -> Net:
    for clients in rounds:
        n = np.array([c["size"] for c in clients], float)
        net = average([local_sgd(net, c["batches"], lr, momentum, unchanged) for c in clients], n / n.sum())
    return net


def fed_prox(net: Net, rounds: list, lr: float, mu: float) -> Net:
    for clients in rounds:
        n = np.array([c["size"] for c in clients], float)
        w0 = net
        nets = [
            local_sgd(w0, c["batches"], lr, 0.0, lambda g, w, w0=w0: {k: g[k] + mu * (w[k] - w0[k]) for k in g})
            for c in clients
        ]
        net = average(nets, n / n.sum())
    return net


def fed_nova(net: Net, rounds: list, lr: float, momentum: float = 0.0) -> Net:
    for clients in rounds:
        n = np.array([c["size"] for c in clients], float)
        p = n / n.sum()
        # a_i as the sum of what heavy-ball SGD makes of each gradient, not as a closed form
        a = []
        for c in clients:
            tau = len(c["batches"])
            a.append(sum(sum(momentum**j for j in range(tau - s)) for s in range(tau)))
        nets = [local_sgd(net, c["batches"], lr, momentum, unchanged) for c in clients]
        effective = sum(pi * ai for pi, ai in zip(p, a, strict=True))
        directions = [{k: (net[k] - w[k]) / ai for k in net} for w, ai in zip(nets, a, strict=True)]
        net = {k: net[k] - effective * sum(pi * d[k] for pi, d in zip(p, directions, strict=True)) for k in net}
    return net


def scaffold(net: Net, rounds: list, lr: float, population: int) -> Net:
    zero = {k: np.zeros_like(v) for k, v in net.items()}
    c, own = dict(zero), {}
    for clients in rounds:
        x, nets, changes = net, [], []
        for client in clients:
            ci = own.get(client["id"], zero)
            y = local_sgd(x, client["batches"], lr, 0.0, lambda g, w, ci=ci, c=c: {k: g[k] - ci[k] + c[k] for k in g})
            steps = len(client["batches"])
            new = {k: ci[k] - c[k] + (x[k] - y[k]) / (steps * lr) for k in x}
            nets.append(y)
            changes.append({k: new[k] - ci[k] for k in x})
            own[client["id"]] = new
        net = {k: x[k] + sum(y[k] - x[k] for y in nets) / len(nets) for k in x}
        c = {k: c[k] + sum(d[k] for d in changes) / population for k in x}
    return net


def fed_dyn(net: Net, rounds: list, lr: float, alpha: float, population: int) -> Net:
    zero = {k: np.zeros_like(v) for k, v in net.items()}
    h, own = dict(zero), {}
    for clients in rounds:
        w0, nets = net, []
        for client in clients:
            gi = own.get(client["id"], zero)
            w = local_sgd(
                w0,
                client["batches"],
                lr,
                0.0,
                lambda g, w, gi=gi, w0=w0: {k: g[k] - gi[k] + alpha * (w[k] - w0[k]) for k in g},
            )
            own[client["id"]] = {k: gi[k] - alpha * (w[k] - w0[k]) for k in w}
            nets.append(w)
        h = {k: h[k] - alpha / population * sum(w[k] - w0[k] for w in nets) for k in h}
        net = {k: sum(w[k] for w in nets) / len(nets) - h[k] / alpha for k in net}
    return net


def moon(net: Net, rounds: list, lr: float, mu: float, temperature: float) -> Net:
    previous: dict[int, Net] = {}
    for clients in rounds:
        n = np.array([c["size"] for c in clients], float)
        w0, nets = net, []
        for client in clients:
            old = previous.get(client["id"], w0)
            w = {k: v.copy() for k, v in w0.items()}
            for x, y in client["batches"]:
                g = gradient(
                    w, x, y, lambda h, x=x, old=old, w0=w0: moon_at(h, hidden(w0, x), hidden(old, x), mu, temperature)
                )
                w = {k: w[k] - lr * g[k] for k in w}
            previous[client["id"]] = w
            nets.append(w)
        net = average(nets, n / n.sum())
    return net


def moon_at(z: np.ndarray, of_server: np.ndarray, of_previous: np.ndarray, mu: float, t: float) -> np.ndarray:
    """Gradient at z of mu times the mean over rows of -log(e^a / (e^a + e^b)), a and b the cosines over t."""
    out = np.zeros_like(z)
    for row in range(len(z)):
        v, g, p = z[row], of_server[row], of_previous[row]
        near, far = cosine(v, g) / t, cosine(v, p) / t
        wrong = np.exp(far) / (np.exp(near) + np.exp(far))
        out[row] = mu / len(z) * wrong / t * (cosine_slope(v, p) - cosine_slope(v, g))
    return out


def cosine(v: np.ndarray, u: np.ndarray) -> float:
    return v @ u / np.sqrt((v @ v) * (u @ u))


def cosine_slope(v: np.ndarray, u: np.ndarray) -> np.ndarray:
    return u / np.sqrt((v @ v) * (u @ u)) - cosine(v, u) * v / (v @ v)


def fed_decorr(net: Net, rounds: list, lr: float, beta: float) -> Net:
    for clients in rounds:
        n = np.array([c["size"] for c in clients], float)
        nets = [
            local_sgd(net, c["batches"], lr, 0.0, unchanged, at_hidden=lambda h: decorrelation_at(h, beta))
            for c in clients
        ]
        net = average(nets, n / n.sum())
    return net


def standardised(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(b, d) columns with mean 0 and unbiased variance 1, and the deviations (d,) they were divided by."""
    s = np.sqrt(h.var(0, ddof=1) + 1e-8)
    return (h - h.mean(0)) / s, s


def decorrelation(h: np.ndarray, beta: float) -> float:
    """beta / b times the mean of (Z^T Z)_jk^2 over all pairs j != k, as in the authors' code."""
    b, d = h.shape
    z, _ = standardised(h)
    pairs = [(z[:, j] @ z[:, k]) ** 2 for j in range(d) for k in range(d) if j != k]
    return beta / b * sum(pairs) / len(pairs)


def decorrelation_at(h: np.ndarray, beta: float) -> np.ndarray:
    """Its gradient at h, (b, d); zero for a batch of one row."""
    b, d = h.shape
    if b < 2:
        return np.zeros_like(h)
    z, s = standardised(h)
    k = z.T @ z
    np.fill_diagonal(k, 0)
    g = beta / (b * d * (d - 1)) * 4 * z @ k
    dc = (g - z * (g * z).sum(0) / (b - 1)) / s
    return dc - dc.mean(0)


def adaptive_server(net: Net, gradients: list[Net], lr: float, betas, tau: float, yogi: bool) -> Net:
    """Reddi et al. 2021, algorithm 2, on given pseudo-gradients; Delta is minus the gradient."""
    m = {k: np.zeros_like(v) for k, v in net.items()}
    v = {k: np.full_like(w, tau**2) for k, w in net.items()}
    for g in gradients:
        for k in net:
            delta = -g[k]
            m[k] = betas[0] * m[k] + (1 - betas[0]) * delta
            if yogi:
                v[k] = v[k] - (1 - betas[1]) * delta**2 * np.sign(v[k] - delta**2)
            else:
                v[k] = betas[1] * v[k] + (1 - betas[1]) * delta**2
            net = net | {k: net[k] + lr * m[k] / (np.sqrt(v[k]) + tau)}
    return net
