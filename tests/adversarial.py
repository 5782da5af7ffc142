"""Small networks that go around what a rule expects: weights outside of linear and conv layers, ties, frozen parts.

Every builder takes no argument; the global seed decides the weights. `NETWORKS` holds all of them, name to (builder,
shape of one input); `CARRYING` those that hold weights whose own transpose carries error, with the ends of their names.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

CLASSES = 5


class Last(nn.Module):
    """The output of a recurrent layer after its last step: (n, t, i) to (n, o)."""

    def __init__(self, layer: nn.RNNBase):
        super().__init__()
        self.rnn = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0][:, -1]


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0].mean(1)


class Multiply(torch.autograd.Function):
    """x W^T, written by somebody else."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx, error):
        x, weight = ctx.saved_tensors
        return error @ weight, error.t() @ x


class FeedbackProjection(Multiply):
    """A stranger whose graph node has "Feedback" in its name."""


class TokenEmbeddingProjection(Multiply):
    """A stranger whose graph node has "Embedding" in its name."""


class AddBackward0(Multiply):
    """A stranger whose graph node begins like torch's addition."""


class Weight(nn.Module):
    """Holds a weight and uses it by a function of activation and weight."""

    def __init__(self, how: Callable[[Tensor, Tensor], Tensor], *shape: int):
        super().__init__()
        self.how, self.weight = how, nn.Parameter(0.3 * torch.randn(*shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.how(x, self.weight)


class Shared(nn.Module):
    """A module that is reachable under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.a, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(self.first(x)).tanh()).tanh())


class TiedWeight(nn.Module):
    """Two modules with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(self.first(x)).tanh()).tanh())


class SharedDropout(nn.Module):
    """One dropout behind two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.second(self.dropout(self.first(x).tanh())).tanh()))


class LearnedQuery(nn.Module):
    """Attention pooling: a learned query reads the tokens, (n, t, 8) to (n, 8)."""

    def __init__(self):
        super().__init__()
        self.latent, self.q, self.kv = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 8), nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.kv(x).chunk(2, -1)
        q = self.q(self.latent.expand(len(x), -1, -1))
        return nn.functional.scaled_dot_product_attention(q, k, v)[:, 0]


def hooked(name: str) -> nn.Module:
    """A linear layer under torch's older weight or spectral normalisation, which is a hook."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return getattr(nn.utils, name)(nn.Linear(8, 8))


def frozen_bias() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    network[2].bias.requires_grad_(False)
    return network


def frozen_weight() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    network[2].weight.requires_grad_(False)
    return network


def between(module: nn.Module) -> nn.Module:
    """The module between two linear layers; 8 units in and out."""
    return nn.Sequential(nn.Linear(6, 8), module, nn.Linear(8, CLASSES))


# name: (builder, shape of one input, the weights that carry error by their own transpose)
CARRYING: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "lstm": (lambda: between(Last(nn.LSTM(8, 8, batch_first=True))), (3, 6), ("rnn.weight_ih_l0", "rnn.weight_hh_l0")),
    "gru": (lambda: between(Last(nn.GRU(8, 8, batch_first=True))), (3, 6), ("rnn.weight_ih_l0", "rnn.weight_hh_l0")),
    "rnn": (lambda: between(Last(nn.RNN(8, 8, batch_first=True))), (3, 6), ("rnn.weight_ih_l0", "rnn.weight_hh_l0")),
    "first_lstm": (
        lambda: nn.Sequential(Last(nn.LSTM(6, 8, batch_first=True)), nn.Linear(8, CLASSES)),
        (3, 6),
        ("rnn.weight_hh_l0",),
    ),
    "multihead_attention": (
        lambda: between(SelfAttention()),
        (3, 6),
        ("attention.in_proj_weight", "attention.out_proj.weight"),
    ),
    "autograd_function": (lambda: between(Weight(Multiply.apply, 8, 8)), (6,), ("weight",)),
    "named_feedback": (lambda: between(Weight(FeedbackProjection.apply, 8, 8)), (6,), ("weight",)),
    "named_embedding": (lambda: between(Weight(TokenEmbeddingProjection.apply, 8, 8)), (6,), ("weight",)),
    "named_addition": (lambda: between(Weight(AddBackward0.apply, 8, 8)), (6,), ("weight",)),
    "product_and_sum": (lambda: between(Weight(lambda x, w: (x.unsqueeze(1) * w).sum(-1), 8, 8)), (6,), ("weight",)),
    "expanded_product": (
        lambda: between(Weight(lambda x, w: (x[:, None].expand(-1, 8, -1) * w.expand(len(x), 8, 8)).sum(2), 8, 8)),
        (6,),
        ("weight",),
    ),
    "inner_product": (
        lambda: between(Weight(lambda x, w: (x * w).sum(-1, keepdim=True).expand(-1, 8), 1, 8)),
        (6,),
        ("weight",),
    ),
    "inner_products_of_groups": (  # -1 among three dimensions
        lambda: between(Weight(lambda x, w: (x.view(-1, 2, 4) * w).sum(-1).repeat(1, 4), 1, 4)),
        (6,),
        ("weight",),
    ),
    "vector_product": (lambda: between(Weight(lambda x, w: (x @ w)[:, None].expand(-1, 8), 8)), (6,), ("weight",)),
    "normalised_vector": (
        lambda: between(Weight(lambda x, w: (x @ (w / w.norm()))[:, None].expand(-1, 8), 8)),
        (6,),
        ("weight",),
    ),
    "distance": (lambda: between(Weight(torch.cdist, 8, 8)), (6,), ("weight",)),
    "outer_difference": (
        lambda: between(Weight(lambda x, w: (x[:, None] - w).square().mul(w).sum(-1), 8, 8)),
        (6,),
        ("weight",),
    ),
    "bilinear": (
        lambda: between(Weight(lambda x, w: nn.functional.bilinear(x, x, w), 8, 8, 8)),
        (6,),
        ("weight",),
    ),
}
# a scaling, an addition or a normalisation: nothing is mixed
HARMLESS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "scale": (lambda: between(Weight(lambda x, w: x * w, 1, 8)), (6,)),
    "scale_of_heads": (
        lambda: between(Weight(lambda x, w: (x.view(-1, 2, 2, 2) * w).softmax(-1).flatten(1), 2, 1, 1)),
        (6,),
    ),
    "scale_then_pool": (
        lambda: between(Weight(lambda x, w: (x.view(-1, 4, 2) * w.expand(len(x), 4, 2)).mean(2).repeat(1, 2), 4, 1)),
        (6,),
    ),
    "divisor": (lambda: between(Weight(lambda x, w: x / (w.exp() + 1), 1, 8)), (6,)),
    "addcmul": (lambda: between(Weight(lambda x, w: torch.addcmul(w, x, w), 1, 8)), (6,)),
    "addition": (lambda: between(Weight(lambda x, w: (x[:, None] + w).mean(1), 3, 8)), (6,)),
    "concatenation": (
        lambda: between(Weight(lambda x, w: torch.cat([w.expand(len(x), -1), x], 1)[:, 2:10], 1, 2)),
        (6,),
    ),
    "placed": (lambda: between(Weight(lambda x, w: x.clone().index_put((torch.arange(2),), w), 2, 8)), (6,)),
    "chosen": (lambda: between(Weight(lambda x, w: torch.where(x > 0, x, w), 1, 8)), (6,)),
    "bias_of_a_map": (lambda: between(Weight(lambda x, w: torch.addmm(w, x, torch.eye(8).to(x)), 1, 8)), (6,)),
    "layer_norm": (
        lambda: between(nn.Sequential(nn.Unflatten(1, (2, 4)), nn.LayerNorm((2, 4)), nn.Flatten())),
        (6,),
    ),
    "learned_query": (
        lambda: nn.Sequential(nn.Linear(6, 8), LearnedQuery(), nn.Linear(8, CLASSES)),
        (3, 6),
    ),
    "weight_norm": (lambda: between(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))), (6,)),
    "spectral_norm": (lambda: between(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))), (6,)),
    "weight_norm_by_a_hook": (lambda: between(hooked("weight_norm")), (6,)),
    "spectral_norm_by_a_hook": (lambda: between(hooked("spectral_norm")), (6,)),
    "prelu": (lambda: between(nn.PReLU(8)), (6,)),
}  # fmt: skip
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = (
    {name: (build, shape) for name, (build, shape, _) in CARRYING.items()}
    | HARMLESS
    | {
        "shared_module": (Shared, (6,)),
        "tied_weight": (TiedWeight, (6,)),
        "shared_dropout": (SharedDropout, (6,)),
        "frozen_bias": (frozen_bias, (6,)),
        "frozen_weight": (frozen_weight, (6,)),
    }
)
