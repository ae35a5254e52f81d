"""LightVLA*: a few queries that are learned vote for the visual tokens that stay.

The paper (arXiv 2509.12594, section V) says that trainable queries select tokens at the vision
encoder's output or behind a shallow decoder layer; their number, form and losses are not
published, and no code is. Ours: 128 queries of the model's width listen to text, state and slots
by the attention without parameters that LightVLA's own queries use, on top of what they learnt;
scores, argmax and training are LightVLA's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ProfileError
from .layout import Target
from .lightvla import count_votes, filled_up
from .lightvla_scores import selected, unit_rms
from .plan import Chosen, Query, Site, SiteView

METHOD = 'lightvla_star'
COUNT = 128
TENSOR = 'queries'


class LearnedQueries(nn.Module):
    """Queries (M, D), and where they vote.

    :param width: D.
    :param count: M; no more tokens can stay.
    :param after: decoder layer behind which they vote; -1: at the vision encoder's output. The
        paper's L1 to L3 are 0 to 2.
    """

    def __init__(self, width: int, count: int = COUNT, after: int = -1) -> None:
        super().__init__()
        self.after = after
        self.queries = nn.Parameter(torch.randn(count, width))

    def scores(self, visual: Tensor, others: Tensor) -> Tensor:
        """(..., V, D) and (..., R, D) -> float32 (..., M, V)."""
        return query_scores(self.queries, visual, others)


def query_scores(queries: Tensor, visual: Tensor, others: Tensor) -> Tensor:
    """How well each visual token answers each query: float32 (..., M, V).

    q' = n(q) + softmax(n(q) n(Y)^T / sqrt(D)) n(Y), S = n(q') n(X)^T / sqrt(D), with n of
    :func:`unit_rms`.

    :param queries: (M, D). :param visual: (..., V, D). :param others: (..., R, D).
    """
    scale = visual.shape[-1] ** -0.5
    q, x, y = unit_rms(queries), unit_rms(visual), unit_rms(others)
    heard = q + (q @ y.transpose(-1, -2) * scale).softmax(-1) @ y
    return unit_rms(heard) @ x.transpose(-1, -2) * scale


@dataclass(frozen=True, eq=False)
class LightVLAStar:
    """Inference of LightVLA*: the visual tokens that some learned query likes best.

    :param queries: float32 (M, D). :param after: see :class:`LearnedQueries`.
    """

    queries: Tensor
    after: int = -1
    name: str = METHOD

    @classmethod
    def build(cls, target: Target) -> 'LightVLAStar':
        """With the queries of the checkpoint; random ones where nothing is known of it, as for
        measuring times with random weights.

        :raises ProfileError: the checkpoint brings none.
        :raises CheckpointError: they do not fit the model.
        """
        trained = target.trained
        if trained is None:
            generator = torch.Generator().manual_seed(0)
            return cls(torch.randn(COUNT, target.width, generator=generator))
        if trained.method != METHOD or TENSOR not in trained.tensors:
            raise ProfileError(
                'the checkpoint brings no queries of lightvla_star',
                'take one that was trained for it (vla-prune train lightvla with queries: 128)',
            )
        queries, after = trained.tensors[TENSOR], int(trained.settings.get('after', -1))
        if queries.shape[-1] != target.width or not -1 <= after < target.layers - 1:
            raise CheckpointError(
                f'queries {tuple(queries.shape)} behind layer {after} do not fit a model of width '
                f'{target.width} with {target.layers} layers',
                'take pruning.json and pruning.safetensors of the same checkpoint',
            )
        return cls(queries, after)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Before layer 0, or behind the layer that it was trained at."""
        return (Site(self.after),)

    def begin(self, query: Query) -> str:
        """``'coarse'``: the choice does not depend on the motion."""
        return 'coarse'

    @property
    def static(self) -> bool:
        """Before layer 0 the tokens can be counted ahead of the pass."""
        return self.after == -1

    @property
    def counted(self) -> bool:
        """The data say how many stay."""
        return True

    def count(self, view: SiteView) -> Tensor:
        """Tokens that some query likes best: int64 ()."""
        return count_votes(self._scores(view))

    def keep(self, view: SiteView) -> Tensor | Chosen:
        """The tokens that stay."""
        scores = self._scores(view)
        return view.ids[selected(scores)] if view.size is None else filled_up(view, scores)

    def _scores(self, view: SiteView) -> Tensor:
        n, device = len(view.ids), view.hidden.device
        if self.queries.device != device:
            object.__setattr__(self, 'queries', self.queries.to(device))
        return query_scores(self.queries, view.hidden[1 : 1 + n], view.hidden[1 + n :])

    def reset(self) -> None:
        """Nothing to forget."""
