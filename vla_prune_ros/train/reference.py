"""``vla-prune train reference``: demonstrations, training, corrections on policy, a checkpoint.

Every stage leaves its result in the work folder and is skipped when that is there, so that an
interrupted run goes on where it was.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ..errors import CheckpointError
from ..evaluate.closed_loop.rollout import EpisodeResult
from ..model.export import write_json
from ..model.prompt import PromptTokenizer
from ..sim.two_cubes import TASKS
from .collect import (
    FIRST_CHECK,
    FIRST_CORRECTION,
    FIRST_DEMONSTRATION,
    Collection,
    collect,
    episodes,
    measure,
)
from .dataset import Episode, Samples, describe_numbers, split
from .publish import export
from .report import write_card
from .tasks.policy import ReferenceNet, Words, make_tokenizer
from .trainer import Learner, Recipe, validate

FURTHER_LR = 6e-4
RECIPES = ('towers', 'first', 'further')
PLACES = ('work', 'workers', 'device')  # where it is done, not what


@dataclass(frozen=True)
class Plan:
    """What is trained, and from how much.

    :param work: folder for episodes and states, about 1 GB per 1300 episodes.
    :param demonstrations: episodes of the disturbed expert, spread evenly over the six tasks.
    :param towers: recipe of the first steps, which teach the towers to find the named cube.
    :param first: recipe of the imitation of the expert.
    :param corrections: episodes of the policy, taken over by the expert, for each round of DAgger.
    :param further: recipe of each round.
    :param checks: episodes to measure success with after each round.
    :param workers: processes that record and measure.
    :param seed: of the first weights and of the samples.
    :param device: a torch device to train on.
    """

    work: Path
    demonstrations: int = 1200
    towers: Recipe = field(default_factory=lambda: Recipe(600, towers_only=True))
    first: Recipe = field(default_factory=lambda: Recipe(3000))
    corrections: tuple[int, ...] = (240, 240)
    further: Recipe = field(default_factory=lambda: Recipe(2000, lr=FURTHER_LR))
    checks: int = 60
    workers: int = 2
    seed: int = 0
    device: str = 'cpu'


class Progress(Protocol):
    """Who is told how far things are."""

    def stage(self, text: str, total: int) -> None:
        """A stage of ``total`` units begins."""

    def at(self, done: int, text: str = '') -> None:
        """This many units of the stage are done."""


def train_reference(plan: Plan, out: Path, progress: Progress) -> dict[str, Any]:
    """Train and write the checkpoint to ``out``.

    :returns: the history that ``vla_prune.json`` of the checkpoint holds, too.
    """
    run = _Run(plan, progress)
    net = run.first_round()
    for number in range(1, len(plan.corrections) + 1):
        net = run.correct(number, net)
    return run.finish(net, out)


class _Run:
    def __init__(self, plan: Plan, progress: Progress) -> None:
        self.plan, self.progress = plan, progress
        plan.work.mkdir(parents=True, exist_ok=True)
        _require_same(plan)
        tokenizer = plan.work / 'tokenizer.json'
        make_tokenizer().save(str(tokenizer))
        instructions = [task.instruction for task in TASKS.values()]
        self.words = Words(instructions, PromptTokenizer(tokenizer))
        self.history: list[dict[str, Any]] = []
        self.steps = 0
        self._validation: list[Episode] = []
        self._episodes: list[Episode] = []

    def first_round(self) -> ReferenceNet:
        plan = self.plan
        last = FIRST_DEMONSTRATION + plan.demonstrations
        self._record('demonstrations', range(FIRST_DEMONSTRATION, last), None)
        self.statistics = describe_numbers(self._episodes)
        net = ReferenceNet(self.words.rows, plan.seed).to(plan.device)
        net = self._learn('towers', net, plan.towers)
        net = self._learn('imitation', net, plan.first)
        self._check('imitation', net)
        return net

    def correct(self, number: int, net: ReferenceNet) -> ReferenceNet:
        first = FIRST_CORRECTION + 100_000 * number
        seeds = range(first, first + self.plan.corrections[number - 1])
        self._record(f'corrections-{number}', seeds, self._folder(number - 1))
        net = self._learn(f'round-{number}', net, self.plan.further)
        self._check(f'round-{number}', net)
        return net

    def finish(self, net: ReferenceNet, out: Path) -> dict[str, Any]:
        about = {'task_names': list(TASKS), 'history': self.history, 'plan': _plain(self.plan)}
        export(net, self.words, self.statistics, out, self.steps, about)
        acting = sum(
            p.numel() for n, p in net.policy.named_parameters() if 'embed_tokens' not in n
        )
        write_card(out, about, acting, self.words.rows)
        return about

    def _folder(self, number: int) -> Path:
        return self.plan.work / ('imitation' if number == 0 else f'round-{number}')

    def _record(self, name: str, seeds: range, checkpoint: Path | None) -> None:
        folder = self.plan.work / name
        self.progress.stage(f'recording {name}', len(seeds))
        collect(
            Collection(folder, seeds, checkpoint),
            self.plan.workers,
            lambda n, m: self.progress.at(n),
        )
        train, held = split(episodes(folder, seeds))
        self._episodes += train
        self._validation += held

    def _learn(self, name: str, net: ReferenceNet, recipe: Recipe) -> ReferenceNet:
        recipe = replace(recipe, seed=self.plan.seed)
        samples = Samples(self._episodes, self.words, self.statistics)
        held = Samples(self._validation, self.words, self.statistics)
        learner = Learner(net, samples, recipe, self.plan.work / f'{name}.pt')
        self.progress.stage(f'training {name}', recipe.steps)
        learner.run(lambda step, curve: self.progress.at(step, curve.text()))
        self.steps += recipe.steps
        entry = {
            'stage': name,
            'samples': len(samples),
            'steps': recipe.steps,
            'seconds': round(learner.curve.seconds),
            'training': learner.curve.points,
            'validation': validate(learner.average, held, recipe),
        }
        self.history.append(entry)
        net.load_state_dict(learner.average.state_dict())
        return net

    def _check(self, name: str, net: ReferenceNet) -> None:
        folder, file = self.plan.work / name, self.plan.work / f'{name}.json'
        if not file.is_file():
            export(net, self.words, self.statistics, folder, self.steps, {'stage': name})
            seeds = range(FIRST_CHECK, FIRST_CHECK + self.plan.checks)
            self.progress.stage(f'measuring {name}', len(seeds))
            found = measure(folder, seeds, self.plan.workers, lambda n, m: self.progress.at(n))
            write_json(file, {'stage': name, 'success': successes(found)})
        self.history.append(json.loads(file.read_text(encoding='utf-8')))


def successes(results: Iterable[EpisodeResult]) -> dict[str, str]:
    """Task -> successes of episodes, and how often the wrong cube was touched."""
    found: dict[str, list[EpisodeResult]] = {}
    for result in results:
        found.setdefault(result.task, []).append(result)
    return {
        task: f'{sum(r.success for r in runs)}/{len(runs)}'
        + (f', wrong {sum(bool(r.wrong_object) for r in runs)}' if 'pick' in task else '')
        for task, runs in sorted(found.items())
    }


def _require_same(plan: Plan) -> None:
    """A work folder belongs to one plan: what it holds would be taken for the result of another.

    :raises CheckpointError: it was begun with another one. More rounds may be added.
    """
    file, wanted = plan.work / 'plan.json', _plain(plan)
    begun = json.loads(file.read_text(encoding='utf-8')) if file.is_file() else wanted
    rounds = begun['corrections']
    for name in ('seed', 'demonstrations', *RECIPES, 'checks', 'corrections'):
        now = wanted[name][: len(rounds)] if name == 'corrections' else wanted[name]
        if now != begun[name]:
            raise CheckpointError(
                f'{plan.work} was begun with {name} {begun[name]}, not {wanted[name]}',
                'use the same options as then, or another --work folder',
            )
    write_json(file, wanted)


def _plain(plan: Plan) -> dict[str, Any]:
    recipes = {name: replace(getattr(plan, name), seed=plan.seed) for name in RECIPES}
    about = asdict(replace(plan, **recipes))
    return json.loads(json.dumps({k: v for k, v in about.items() if k not in PLACES}))
