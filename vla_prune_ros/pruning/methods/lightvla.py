"""LightVLA and LightVLA*: every query votes for the visual token that it likes best.

LightVLA (arXiv 2509.12594, section III, and the authors' ``TokenPruner``, LiAutoAD/LightVLA
a4680fd): the visual tokens are the queries, by an attention without parameters, before layer 0.
LightVLA* (section V): trainable queries at the vision encoder's output or behind a shallow decoder
layer; their number, form and losses are not published. Ours: 128 queries, trained as LightVLA's.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config import option
from ...errors import CheckpointError, ProfileError
from ..base import Pruner, PruningContext, PruningSite, Selection
from ..layout import Target
from ..selection import Budget, best_first, budgets, select_best

METHOD, STAR_METHOD = 'lightvla', 'lightvla_star'  # as in pruning.json of a checkpoint
EPSILON = 1e-6


def unit_rms(x: Tensor) -> Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)


def selection_scores(visual: Tensor, others: Tensor) -> Tensor:
    """How well each visual token matches the query of each one: float32 (..., V, V), eq. 1 to 3,
    of un-normalised embeddings (..., V, D) and all others but BOS (..., R, D)."""
    scale = visual.shape[-1] ** -0.5
    x, y = unit_rms(visual), unit_rms(others)
    queries = (x @ y.transpose(-1, -2) * scale).softmax(-1) @ y
    return unit_rms(queries) @ x.transpose(-1, -2) * scale


def selected(scores: Tensor) -> Tensor:
    """The columns that are the best of some row, ascending. Ties: the lower column."""
    return scores.argmax(-1).unique()


def straight_through(scores: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """The selection that training uses: matrix (..., V, V), forward one-hot and backward a
    softmax, and int64 (..., V), the column of each row, duplicates kept."""
    noisy = scores if noise is None else scores + noise
    soft = noisy.softmax(-1)
    columns = noisy.argmax(-1)
    hard = F.one_hot(columns, scores.shape[-1]).to(soft.dtype)
    return hard + soft - soft.detach(), columns


def count_votes(scores: Tensor) -> Tensor:
    best = scores.argmax(-1)
    votes = torch.zeros(scores.shape[-1], dtype=torch.long, device=scores.device)
    return votes.scatter_add(0, best, torch.ones_like(best))


class VotingPruner(Pruner):
    capturable = True
    bucketed = True
    sites = (PruningSite(-1),)

    @abstractmethod
    def scores(self, visual: Tensor, others: Tensor) -> Tensor:
        """(V, D) and (R, D) -> float32 (queries, V)."""

    def count(self, context: PruningContext) -> Tensor:
        return (count_votes(self._scores(context)) > 0).sum()

    def keep(self, context: PruningContext) -> Tensor | Selection:
        scores = self._scores(context)
        if context.bucket_size is None:
            return context.ids[selected(scores)]
        # Tokens without a vote that would be the next fill the bucket, and nobody sees them.
        votes = count_votes(scores)
        kept = best_first(scores.amax(0), votes)[: context.bucket_size].sort().values
        return Selection(context.ids[kept], None, votes[kept] > 0)

    def _scores(self, context: PruningContext) -> Tensor:
        n = len(context.ids)
        return self.scores(context.hidden[1 : 1 + n], context.hidden[1 + n :])


@dataclass(frozen=True)
class LightVLAOptions:
    budget: Budget = option(
        None, 'visual tokens per camera that are kept; none: as many as get a vote', low=1
    )
    force: bool = option(
        False,
        'run on weights that were not trained for it, on which it fails: about 0 % success for a '
        'stock OpenVLA-OFT (docs/lightvla.md)',
    )


class LightVLA(VotingPruner):
    """Published: as many as get a vote. With a budget, which is ours, each camera keeps those with
    the most votes, then those with the highest score from any query."""

    name = METHOD
    options_type = LightVLAOptions

    def __init__(self, options: LightVLAOptions, target: Target) -> None:
        trained = target.trained
        if trained is not None and trained.method != METHOD and not options.force:
            was = f'for {trained.method!r}' if trained.method else 'without pruning'
            raise ProfileError(
                f'the checkpoint was trained {was}, and lightvla fails on such weights',
                'take one that was trained for it (vla-prune train lightvla), say so in its '
                f'pruning.json ({{"method": "{METHOD}"}}), or set force: true',
            )
        self.budget = None if options.budget is None else budgets(METHOD, options.budget, target)
        self.bucketed = self.budget is None

    def scores(self, visual: Tensor, others: Tensor) -> Tensor:
        return selection_scores(visual, others)

    def keep(self, context: PruningContext) -> Tensor | Selection:
        if self.budget is None:
            return super().keep(context)
        scores = self._scores(context)
        return select_best(context, scores.amax(0), self.budget, count_votes(scores))

    def report(self) -> dict[str, float | int | str]:
        return {'reason': 'votes' if self.budget is None else 'budget'}


COUNT = 128
TENSOR = 'queries'


class LearnedQueries(nn.Module):
    def __init__(self, width: int, count: int = COUNT, after: int = -1) -> None:
        super().__init__()
        self.after = after  # the decoder layer behind which they vote; -1: before the decoder
        self.queries = nn.Parameter(torch.randn(count, width))

    def scores(self, visual: Tensor, others: Tensor) -> Tensor:
        return query_scores(self.queries, visual, others)


def query_scores(queries: Tensor, visual: Tensor, others: Tensor) -> Tensor:
    """How well each visual token matches each query: S = n(q') n(X)^T / sqrt(D), float32
    (..., M, V), q' = n(q) + softmax(n(q) n(Y)^T / sqrt(D)) n(Y), n = :func:`unit_rms`."""
    scale = visual.shape[-1] ** -0.5
    q, x, y = unit_rms(queries), unit_rms(visual), unit_rms(others)
    attended = q + (q @ y.transpose(-1, -2) * scale).softmax(-1) @ y
    return unit_rms(attended) @ x.transpose(-1, -2) * scale


class LightVLAStar(VotingPruner):
    name = STAR_METHOD

    def __init__(self, options: object, target: Target) -> None:
        trained, after = target.trained, -1
        if trained is None:
            generator = torch.Generator().manual_seed(0)
            self._queries = torch.randn(COUNT, target.width, generator=generator)
        elif trained.method != STAR_METHOD or TENSOR not in trained.tensors:
            raise ProfileError(
                'the checkpoint brings no queries of lightvla_star',
                'take one that was trained for it (vla-prune train lightvla with queries: 128)',
            )
        else:
            self._queries, after = trained.tensors[TENSOR], int(trained.settings.get('after', -1))
        if self._queries.shape[-1] != target.width or not -1 <= after < target.layers - 1:
            raise CheckpointError(
                f'queries {tuple(self._queries.shape)} behind layer {after} do not fit a model of '
                f'width {target.width} with {target.layers} layers',
                'take pruning.json and pruning.safetensors of the same checkpoint',
            )
        self.sites = (PruningSite(after),)
        # Only before layer 0 can the tokens be counted ahead of the pass.
        self.capturable = after == -1

    def scores(self, visual: Tensor, others: Tensor) -> Tensor:
        if self._queries.device != visual.device:
            self._queries = self._queries.to(visual.device)
        return query_scores(self._queries, visual, others)
