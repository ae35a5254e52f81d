"""The L1 action head and the proprio projector, under the published component names."""

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + ReLU(Linear(LayerNorm(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return x + self.ffn(x)


class MlpResNet(nn.Module):
    """LayerNorm, Linear, ReLU, two residual blocks, LayerNorm, Linear. Eps is 1e-5 here."""

    def __init__(self, in_width: int, width: int, out_width: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(in_width)
        self.fc1 = nn.Linear(in_width, width)
        self.mlp_resnet_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(2))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_width) -> (..., out_width)."""
        x = F.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x))


class L1Head(nn.Module):
    """Hidden states of the slots -> normalised chunk, one step from D consecutive slots."""

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.model = MlpResNet(action_dim * width, width, action_dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """(1, K * D, width), step-major -> (1, K, D)."""
        steps = hidden.shape[1] // self.action_dim
        return self.model(hidden.reshape(len(hidden), steps, -1))


class ProprioProjector(nn.Module):
    """Normalised state -> one token: Linear, exact GELU, Linear."""

    def __init__(self, proprio_dim: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(proprio_dim, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(1, proprio_dim) -> (1, 1, width)."""
        return self.fc2(F.gelu(self.fc1(x)))[:, None]
