"""The worker of ``vla-prune evaluate``: runs the episodes that it gets, and films them.

A worker keeps one policy per method and a few scenes, but no episode may find a trace of the one
before it: policy, scene and random generators start anew with every seed.
"""

import contextlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...errors import VlaPruneError
from ...records import Inference, Observation
from ...runtime.overlay import draw_overlay
from ...sim.scene import Scene, make_scene
from ..machine import versions
from ..methods import Method, MethodPolicies
from ..options import Setting
from ..video import VideoWriter
from .episodes import EpisodeKey, EpisodeResult
from .rollout import choose_instruction, run_episode, upright

if TYPE_CHECKING:
    from ...engine.policy import Policy


FPS = 5.0
_ENDING_FRAMES = 5


def video_path(folder: Path, key: EpisodeKey) -> Path:
    name = f'{key.method}_{key.task}_{key.seed}'
    return folder / 'videos' / f'{re.sub(r"[^0-9A-Za-z_-]+", "-", name).strip("-")}.mp4'


class EpisodeVideo:
    """A frame per query: what the vision towers saw, pruned patches dimmed; then how it ended."""

    def __init__(self, path: Path, label: str) -> None:
        self._writer = VideoWriter(path, FPS)
        self._label = label
        self._side = 0

    def add(self, seen: Observation, answer: Inference) -> None:
        kept = {c: f'{int(m.sum())} of {len(m)} patches' for c, m in answer.kept.items()}
        head = (f'{self._label}: {answer.mode}', seen.instruction)
        overlays = []
        for i, (camera, image) in enumerate(answer.model_images.items()):
            lines = (head[min(i, 1)], kept[camera])
            overlays.append(draw_overlay(image, answer.kept[camera], lines))
        self._side = len(overlays[0])
        self._writer.add(overlays)

    def finish(self, images: Mapping[str, np.ndarray], result: EpisodeResult) -> None:
        """``images``: camera -> uint8 (H, W, 3) RGB, in the order of the queries' cameras."""
        if self._side:
            size = (self._side, self._side)
            outcome = 'success' if result.success else 'failure'
            lines = (f'{self._label}: {outcome}', f'after {result.steps} steps')
            overlays = []
            for image in images.values():
                scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                overlays.append(draw_overlay(scaled, np.ones(1, bool), lines))
            for _ in range(_ENDING_FRAMES):
                self._writer.add(overlays)

    def close(self) -> None:
        self._writer.close()


_SCENES = 3  # open at a time: jobs come task by task


@dataclass(frozen=True)
class Job:
    """``video``: file for what the policy saw; None for no video."""

    method: Method
    key: EpisodeKey
    video: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """``wrong``: reason and remedy where the job cannot be run at all; not every exception can
    cross to another process."""

    job: Job
    result: EpisodeResult | None
    versions: dict[str, str]
    wrong: tuple[str, str] | None = None


class EpisodeWorker:
    def __init__(self, setting: Setting) -> None:
        import torch

        torch.set_num_threads(setting.threads)
        self._setting = setting
        self._policies = MethodPolicies(setting.profile, setting.device, setting.dtype)
        self._scenes: OrderedDict[str, Scene] = OrderedDict()
        self._versions = versions()

    def run(self, job: Job) -> Outcome:
        """An error inside the episode is its result, one before it is the outcome's."""
        import torch

        try:
            scene = self._scene(job.key.task)
            policy = self._policies.get(job.method)
            instruction = choose_instruction(self._setting.instruction, scene.instruction)
        except VlaPruneError as error:
            return Outcome(job, None, self._versions, (error.what, error.remedy))
        torch.manual_seed(job.key.seed)
        try:
            result = self._episode(job, policy, scene, instruction)
        except Exception as error:
            self._forget(job.key.task)
            result = self._failed(job.key, instruction or scene.instruction, error)
        return Outcome(job, result, self._versions)

    def close(self) -> None:
        """Free the scenes, in the thread that made them."""
        for task in list(self._scenes):
            self._forget(task)

    def _episode(
        self, job: Job, policy: 'Policy', scene: Scene, instruction: str | None
    ) -> EpisodeResult:
        setting = self._setting
        with contextlib.ExitStack() as stack:
            video = None
            if job.video is not None:
                video = EpisodeVideo(job.video, job.method.name)
                stack.callback(video.close)
            result = run_episode(
                policy,
                scene,
                job.key.seed,
                max_steps=setting.max_steps,
                instruction=instruction,
                refresh=setting.refresh,
                on_query=None if video is None else video.add,
            )
            if video is not None:
                images = upright(scene.images())
                video.finish({c: images[c] for c in policy.profile.cameras}, result)
        return replace(result, simulator=setting.simulator, task=job.key.task)

    def _failed(self, key: EpisodeKey, instruction: str, error: Exception) -> EpisodeResult:
        text = (str(error).splitlines() or [''])[0]
        return EpisodeResult(
            simulator=self._setting.simulator,
            task=key.task,
            seed=key.seed,
            instruction=instruction,
            success=False,
            steps=0,
            wrong_object='',
            moved_m=0.0,
            visual_all=0,
            motion_source='',
            queries=(),
            refresh_ms=(),
            error=f'{type(error).__name__}: {text}',
        )

    def _scene(self, task: str) -> Scene:
        if task not in self._scenes:
            while len(self._scenes) >= _SCENES:
                self._forget(next(iter(self._scenes)))
            self._scenes[task] = make_scene(self._setting.simulator, (task,))
        self._scenes.move_to_end(task)
        return self._scenes[task]

    def _forget(self, task: str) -> None:
        scene = self._scenes.pop(task, None)
        if scene is not None:
            with contextlib.suppress(Exception):  # a scene that failed may fail here again
                scene.close()
