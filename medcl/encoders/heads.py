"""Small heads on pooled features: what the loss sees, thrown away after pretraining."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """A perceptron with one hidden layer, (batch, dim) -> (batch, out_dim): `g(h) = W2 relu(W1 h)`.

    SimCLR's g (Chen et al. 2020, section 2.1), MoCo v2's head (Chen et al. 2020b) and ConVIRT's g_v, g_u (Zhang et al.
    2020, section 2.2). The hidden layer is as wide as the input. No BatchNorm, which later SimCLR code has: it would
    let items of a batch see each other. bias: of W2; a method that standardises the output takes False, since a shift would
    only collect rounding noise.
    """

    def __init__(self, dim: int, out_dim: int, *, bias: bool = True) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, out_dim, bias=bias)

    def forward(self, pooled: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Project; not normalised. Of scans (batch, dim), or of points of scans (batch, point, dim)."""
        return self.out(self.hidden(pooled).relu())
