"""No episode finds a trace of the one before, and no error stops the rest; all is scripted."""

from pathlib import Path

import cv2
import pytest
import torch

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.evaluate.closed_loop import worker as episode_worker
from vla_prune_ros.evaluate.closed_loop.episodes import EpisodeKey
from vla_prune_ros.evaluate.closed_loop.worker import EpisodeWorker, Job, video_path
from vla_prune_ros.evaluate.methods import Method
from vla_prune_ros.evaluate.options import Setting

DENSE = Method('dense', 'dense', Path('weights'), 'aaaa')


def job(seed=0, task='pick_red', video=None):
    return Job(DENSE, EpisodeKey('dense', task, seed), video)


@pytest.fixture
def worker(monkeypatch, line_scene, script_policy):
    """Makes a worker on the line with a scripted policy; ``scenes``: those it opened."""
    threads = torch.get_num_threads()

    def make(policy=None, **setting):
        made = EpisodeWorker(Setting(**{'max_steps': 16, **setting}))
        made.scenes = []
        made.policy = policy or script_policy()

        def open_scene(simulator, tasks):
            if tasks[0] == 'fly':
                raise VlaPruneError("task 'fly' is unknown", 'choose another')
            made.scenes.append(line_scene(task=tasks[0]))
            return made.scenes[-1]

        monkeypatch.setattr(episode_worker, 'make_scene', open_scene)
        monkeypatch.setattr(made._policies, 'get', lambda method: made.policy)
        return made

    yield make
    torch.set_num_threads(threads)


def test_the_episode_is_that_of_the_job(worker):
    outcome = worker(simulator='line').run(job(3, 'pick_green'))
    result = outcome.result
    assert (result.simulator, result.task, result.seed) == ('line', 'pick_green', 3)
    assert (result.steps, result.error, outcome.wrong) == (16, '', None)
    assert outcome.versions['torch'] == torch.__version__


def test_the_setting_reaches_the_episode(worker, script_policy):
    made = worker(script_policy(refresh_ms=1.0), instruction='other', refresh=False, max_steps=9)
    result = made.run(job()).result
    assert (result.instruction, result.steps) == ('pick up the green cube', 9)
    assert result.refresh_ms == ()
    assert worker(max_steps=None).run(job()).result.steps == 150
    worker(threads=2)
    assert torch.get_num_threads() == 2


def test_random_numbers_follow_from_the_seed_alone(worker, script_policy):
    class Noisy(script_policy):
        def infer(self, observation, motion=None):
            self.value = float(torch.rand(()))
            return super().infer(observation, motion)

    alone = worker(Noisy()).run(job(7)).result
    later = worker(Noisy())
    for seed in (1, 2):
        later.run(job(seed))
    assert later.run(job(7)).result.moved_m == alone.moved_m > 0


def test_scenes_are_kept_and_few_are_open_at_a_time(worker):
    made = worker()
    tasks = ['pick_red', 'pick_green', 'stack_red', 'pick_red', 'stack_green', 'pick_green']
    for task in tasks:
        made.run(job(task=task))
    assert [s.task_name for s in made.scenes] == [*tasks[:3], 'stack_green', 'pick_green']
    assert [s.closed for s in made.scenes] == [False, True, True, False, False]
    made.close()
    assert all(s.closed for s in made.scenes)


def test_an_error_inside_an_episode_is_its_result(worker, script_policy):
    made = worker(script_policy(limit=1))
    result = made.run(job(4)).result
    assert (result.success, result.error) == (False, 'RuntimeError: out of memory')
    assert (result.task, result.seed) == ('pick_red', 4)
    made.policy.limit = None
    assert made.run(job(5)).result.error == ''
    assert [s.closed for s in made.scenes] == [True, False]  # not trusted any more


def test_what_stops_every_episode_is_the_outcomes(worker):
    outcome = worker().run(job(task='fly'))
    assert outcome.result is None and outcome.wrong == ("task 'fly' is unknown", 'choose another')


def frames(path):
    video, found = cv2.VideoCapture(str(path)), []
    while (frame := video.read())[0]:
        found.append(frame[1])
    return found


def test_a_video_has_a_frame_per_query_and_an_ending(worker, tmp_path):
    path = video_path(tmp_path, EpisodeKey('specprune:paper@m/x', 'pick_red', 0))
    assert path == tmp_path / 'videos' / 'specprune-paper-m-x_pick_red_0.mp4'
    plain = worker().run(job()).result
    assert worker().run(job(video=path)).result == plain
    found = frames(path)
    assert len(found) == 2 + 5 and found[0].shape == (224, 448, 3)
    # Of 90: every other patch is dimmed to a quarter, below the strip with text.
    patches = found[0][100:220, :224].mean(axis=(0, 2))
    assert abs(patches[7] - 90) < 12 and abs(patches[21] - 22) < 12


def test_a_video_of_an_episode_that_failed_is_closed(worker, script_policy, tmp_path):
    made = worker(script_policy(limit=1))
    assert made.run(job(video=tmp_path / 'x.mp4')).result.error
    assert len(frames(tmp_path / 'x.mp4')) == 1
