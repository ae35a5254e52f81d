"""LightVLA's selection without parameters: scores, survivors, straight-through form.

Source: arXiv 2509.12594, section III, and the authors' ``TokenPruner``
(LiAutoAD/LightVLA a4680fd, ``prismatic/extern/hf/modeling_prismatic.py``).

LightVLA: the visual tokens that some query without parameters likes best, before layer 0.

LightVLA*: a few queries that are learned vote for the visual tokens that stay.

The paper (arXiv 2509.12594, section V) says that trainable queries select tokens at the vision
encoder's output or behind a shallow decoder layer; their number, form and losses are not
published, and no code is. Ours: 128 queries of the model's width listen to text, state and slots
by the attention without parameters that LightVLA's own queries use, on top of what they learnt;
scores, argmax and training are LightVLA's.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import CheckpointError, ProfileError
from ..base import Pruner, PruningContext, PruningSite, Query, Selection
from ..knobs import switch
from ..layout import Target
from ..selection import Budget, budgets

EPSILON = 1e-6


def unit_rms(x: Tensor) -> Tensor:
    """float32 (..., D) with a mean square of one: an RMS norm without a weight."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)


def selection_scores(visual: Tensor, others: Tensor) -> Tensor:
    """How well each visual token answers the query of each other one: float32 (..., V, V).

    Every visual token asks the text, state and slots by an attention without parameters; what it
    hears is its query, and the score its product with every visual token (eq. 1 to 3).

    :param visual: (..., V, D), un-normalised embeddings.
    :param others: (..., R, D), everything else but BOS.
    """
    scale = visual.shape[-1] ** -0.5
    x, y = unit_rms(visual), unit_rms(others)
    queries = (x @ y.transpose(-1, -2) * scale).softmax(-1) @ y
    return unit_rms(queries) @ x.transpose(-1, -2) * scale


def selected(scores: Tensor) -> Tensor:
    """The columns that are the best of some row, ascending: int64 (k,). Ties: the lower column."""
    return scores.argmax(-1).unique()


def straight_through(scores: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """The selection that training uses: one column per row, duplicates kept.

    :param scores: (..., V, V). :param noise: the same shape, already scaled; None for none.
    :returns: matrix (..., V, V), forward one-hot and backward a softmax, and int64 (..., V), the
        columns chosen.
    """
    noisy = scores if noise is None else scores + noise
    soft = noisy.softmax(-1)
    chosen = noisy.argmax(-1)
    hard = F.one_hot(chosen, scores.shape[-1]).to(soft.dtype)
    return hard + soft - soft.detach(), chosen


METHOD = 'lightvla'
"""What ``pruning.json`` of a checkpoint says where the weights were trained for it."""


@dataclass(frozen=True)
class LightVLA(Pruner):
    """LightVLA (arXiv 2509.12594), inference: every visual token votes for one, the rest goes.

    How many stay depends on the picture; survivors are un-normalised and keep their positions.
    All cameras are one set, as published. Ties go to the lower id.

    :param budget: visual tokens per camera; None for the published set. With a budget, which is
        ours, each camera keeps so many: those with the most votes, then those with the highest
        score from any query, lower ids first.
    """

    budget: tuple[int, ...] | None = None
    name = METHOD
    capturable = True
    sites = (PruningSite(-1),)

    @classmethod
    def build(cls, target: Target, budget: Budget = None, force: bool = False) -> 'LightVLA':
        """For ``target``.

        :param budget: visual tokens per camera; None for as many as are voted for.
        :param force: run on weights that were not trained for it, on which it fails: about 0 %
            success for a stock OpenVLA-OFT (docs/lightvla.md).
        :raises ProfileError: the checkpoint was not trained for it, or a value is not possible.
        """
        forced = switch(METHOD, 'force', force)
        trained = target.trained
        if trained is not None and trained.method != METHOD and not forced:
            was = f'for {trained.method!r}' if trained.method else 'without pruning'
            raise ProfileError(
                f'the checkpoint was trained {was}, and lightvla fails on such weights',
                'take one that was trained for it (vla-prune train lightvla), say so in its '
                f'pruning.json ({{"method": "{METHOD}"}}), or set force: true',
            )
        return cls(None if budget is None else budgets(METHOD, budget, target))

    @property
    def bucketed(self) -> bool:
        """Without a budget the data say how many stay."""
        return self.budget is None

    def count(self, view: PruningContext) -> Tensor:
        """Tokens with a vote: int64 ()."""
        return count_votes(_scores(view))

    def begin(self, query: Query) -> str:
        """``'coarse'``: the choice does not depend on the motion."""
        return 'coarse'

    def keep(self, view: PruningContext) -> Tensor | Selection:
        """The tokens that stay."""
        scores = _scores(view)
        if self.budget is None:
            if view.bucket_size is None:
                return view.ids[selected(scores)]
            return filled_up(view, scores)
        votes = _votes(scores)
        parts = zip(
            view.ids.split(view.kept_per_camera),
            votes.split(view.kept_per_camera),
            scores.amax(0).split(view.kept_per_camera),
            self.budget,
            strict=True,
        )
        return Selection.of([ids[voted_first(v, best)[:size]] for ids, v, best, size in parts])

    def report(self) -> dict[str, float | int | str]:
        """The choice depends on the picture and the words alone."""
        return {'reason': 'votes' if self.budget is None else 'budget'}


def filled_up(view: PruningContext, scores: Tensor) -> Selection:
    """The tokens with a vote, and invisible ones up to the bucket size that ``view`` asks for:
    those that would be the next.

    :param scores: float32 (rows, V).
    """
    votes = _votes(scores)
    best = voted_first(votes, scores.amax(0))[: view.bucket_size].sort().values
    return Selection(view.ids[best], None, votes[best] > 0)


def count_votes(scores: Tensor) -> Tensor:
    """Columns that are the best of some row: int64 ()."""
    return (_votes(scores) > 0).sum()


def _scores(view: PruningContext) -> Tensor:
    n = len(view.ids)
    return selection_scores(view.hidden[1 : 1 + n], view.hidden[1 + n :])


def _votes(scores: Tensor) -> Tensor:
    """How many rows like each column best: int64 (V,)."""
    chosen = scores.argmax(-1)
    votes = torch.zeros(scores.shape[-1], dtype=torch.long, device=scores.device)
    return votes.scatter_add(0, chosen, torch.ones_like(chosen))


def voted_first(votes: Tensor, best: Tensor) -> Tensor:
    """Order of descending votes int64 (n,), then descending score (n,), then ascending index."""
    by_score = torch.sort(best, descending=True, stable=True).indices
    return by_score[torch.sort(votes[by_score], descending=True, stable=True).indices]


STAR_METHOD = 'lightvla_star'
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
class LightVLAStar(Pruner):
    """Inference of LightVLA*: the visual tokens that some learned query likes best.

    :param queries: float32 (M, D). :param after: see :class:`LearnedQueries`.
    """

    queries: Tensor
    after: int = -1
    name = STAR_METHOD
    bucketed = True  # the data say how many stay

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
        if trained.method != STAR_METHOD or TENSOR not in trained.tensors:
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
    def sites(self) -> tuple[PruningSite, ...]:
        """Before layer 0, or behind the layer that it was trained at."""
        return (PruningSite(self.after),)

    def begin(self, query: Query) -> str:
        """``'coarse'``: the choice does not depend on the motion."""
        return 'coarse'

    @property
    def capturable(self) -> bool:
        """Before layer 0 the tokens can be counted ahead of the pass."""
        return self.after == -1

    def count(self, view: PruningContext) -> Tensor:
        """Tokens that some query likes best: int64 ()."""
        return count_votes(self._scores(view))

    def keep(self, view: PruningContext) -> Tensor | Selection:
        """The tokens that stay."""
        scores = self._scores(view)
        return view.ids[selected(scores)] if view.bucket_size is None else filled_up(view, scores)

    def _scores(self, view: PruningContext) -> Tensor:
        n, device = len(view.ids), view.hidden.device
        if self.queries.device != device:
            object.__setattr__(self, 'queries', self.queries.to(device))
        return query_scores(self.queries, view.hidden[1 : 1 + n], view.hidden[1 + n :])
