"""VLA-ACL (arXiv 2610.08133): a scorer of 5 bidirectional layers over the patch embeddings, a hard
top-K per view before layer 0, the policy frozen. Ours, since the paper's are not known to us:
width, heads and position embeddings.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...config import option
from ...errors import CheckpointError, ProfileError
from ..base import Pruner, PruningContext, PruningSite, Selection
from ..layout import Target, Trained, read_trained
from ..selection import Budget, budgets, select_best

METHOD = 'vla_acl'
PUBLISHED = {'layers': 5, 'width': 512, 'heads': 8}


class PatchScorer(nn.Module):
    def __init__(
        self, inputs: int, patches: int, cameras: int, *, width: int, heads: int, layers: int
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs, elementwise_affine=False)
        self.enter = nn.Linear(inputs, width)
        self.place = nn.Parameter(0.02 * torch.randn(cameras, patches, width))
        layer = nn.TransformerEncoderLayer(
            width,
            heads,
            dim_feedforward=4 * width,
            dropout=0.0,
            activation='gelu',
            batch_first=True,
            norm_first=True,
        )
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

    def forward(self, visual: Tensor) -> Tensor:
        """(B, C, V, D), D of the decoder -> scores float32 (B, C, V); no camera sees another."""
        x = self.enter(self.norm(visual.float())) + self.place
        y = self.body(x.flatten(0, 1))
        return self.leave(y).squeeze(-1).unflatten(0, visual.shape[:2]).float()


@dataclass(frozen=True)
class VlaAclOptions:
    budget: Budget = option(
        None, 'visual tokens per camera that are kept; none: as in the training', low=1
    )
    weights: str = option(
        '', "folder with pruning.json and pruning.safetensors; default the checkpoint's"
    )


class VlaAcl(Pruner):
    """With the trained scorer; a random one of the published shape where nothing is known of the
    checkpoint, as before it is loaded, or to measure times."""

    name = METHOD
    options_type = VlaAclOptions
    capturable = True
    sites = (PruningSite(-1),)

    def __init__(self, options: VlaAclOptions, target: Target) -> None:
        trained = target.trained
        if options.weights:
            trained = read_trained(Path(options.weights).expanduser())
        if trained is None:
            trained = Trained(METHOD, {**PUBLISHED, 'budget': min(64, target.patches)})
        elif trained.method != METHOD or not trained.tensors:
            raise ProfileError(
                f'{options.weights or "the checkpoint"} brings no scorer of vla_acl',
                'train one (vla-prune train scorer) and name its folder: weights: FOLDER',
            )
        scorer = make_scorer(target, trained.settings)
        if target.trained is not None:
            try:
                scorer.load_state_dict(dict(trained.tensors))
            except RuntimeError as error:
                reason = str(error).splitlines()[-1].strip()
                raise CheckpointError(
                    f'the scorer of vla_acl does not fit the model ({reason})',
                    'take pruning.json and pruning.safetensors of one training, for this '
                    'checkpoint',
                ) from None
        self.scorer = scorer.eval().requires_grad_(False)
        budget = trained.settings.get('budget', 64) if options.budget is None else options.budget
        self.budget = budgets(METHOD, budget, target)

    def keep(self, context: PruningContext) -> Selection:
        layout = context.layout
        if next(self.scorer.parameters()).device != context.hidden.device:
            self.scorer.to(context.hidden.device)
        visual = context.hidden[1 : 1 + layout.visual].unflatten(0, (-1, layout.patches))
        return select_best(context, self.scorer(visual[None])[0].flatten(), self.budget)


def make_scorer(target: Target, settings: Mapping[str, Any]) -> PatchScorer:
    """With random weights; ``settings`` holds ``layers``, ``width`` and ``heads``."""
    try:
        shape = {name: int(settings[name]) for name in PUBLISHED}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return PatchScorer(target.width, target.patches, len(target.cameras), **shape)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise CheckpointError(
            f'the scorer of vla_acl has no usable shape ({error!r})',
            'pruning.json has to name layers, width and heads, a divisor of width',
        ) from None
