"""The worker of ``vla-prune evaluate``: runs the episodes that it gets, and films them.

A worker keeps one policy per method and a few scenes, but no episode may find a trace of the one
before it: policy, scene and random generators start anew with every seed.
"""

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...errors import VlaPruneError
from ...records import Inference, Observation
from ...runtime.images import draw_overlay
from ...sim.scene import Scene, make_scene
from ..machine import versions
from ..methods import Method, MethodPolicies
from ..options import Setting
from ..video import VideoWriter
from .episodes import EpisodeKey, EpisodeResult
from .rollout import choose_instruction, run_episode, upright

if TYPE_CHECKING:
    from ...engine.policy import Policy


FPS, _ENDING_FRAMES = 5.0, 5
_SCENES = 3  # open at a time: jobs come task by task


def video_path(folder: Path, key: EpisodeKey) -> Path:
    name = f'{key.method}_{key.task}_{key.seed}'
    return folder / 'videos' / f'{re.sub(r"[^0-9A-Za-z_-]+", "-", name).strip("-")}.mp4'


class EpisodeVideo(VideoWriter):
    """A frame per query: what the vision towers saw, pruned patches dimmed; then how it ended."""

    def __init__(self, path: Path, label: str) -> None:
        super().__init__(path, FPS)
        self._label, self._side = label, 0

    def add_query(self, seen: Observation, answer: Inference) -> None:
        heads, overlays = [f'{self._label}: {answer.mode}', seen.instruction], []
        for camera, image in answer.model_images.items():
            kept = answer.kept[camera]
            lines = (heads[min(len(overlays), 1)], f'{int(kept.sum())} of {len(kept)} patches')
            overlays.append(draw_overlay(image, kept, lines))
        self._side = len(overlays[0])
        self.add(overlays)

    def finish(self, images: Iterable[np.ndarray], result: EpisodeResult) -> None:
        """``images``: uint8 (H, W, 3) RGB, in the order of the queries' cameras."""
        if self._side:
            outcome = 'success' if result.success else 'failure'
            lines = (f'{self._label}: {outcome}', f'after {result.steps} steps')
            overlays = []
            for image in images:
                scaled = cv2.resize(image, (self._side,) * 2, interpolation=cv2.INTER_AREA)
                overlays.append(draw_overlay(scaled, np.ones(1, bool), lines))
            for _ in range(_ENDING_FRAMES):
                self.add(overlays)


@dataclass(frozen=True)
class Job:
    method: Method
    key: EpisodeKey
    video: Path | None = None  # file for what the policy saw


@dataclass(frozen=True)
class Outcome:
    job: Job
    result: EpisodeResult | None
    versions: dict[str, str]
    # Reason and remedy where the job cannot be run; not every exception crosses processes.
    wrong: tuple[str, str] | None = None


class EpisodeWorker:
    def __init__(self, setting: Setting) -> None:
        import torch

        torch.set_num_threads(setting.threads)
        self._setting = setting
        self._policies = MethodPolicies(setting.profile, setting.device, setting.dtype)
        self._scenes: dict[str, Scene] = {}  # task -> scene, the one used last at the end
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
            text = (str(error).splitlines() or [''])[0]
            result = EpisodeResult(
                simulator=self._setting.simulator,
                task=job.key.task,
                seed=job.key.seed,
                instruction=instruction or scene.instruction,
                success=False,
                error=f'{type(error).__name__}: {text}',
            )
        return Outcome(job, result, self._versions)

    def close(self) -> None:
        """Free the scenes, in the thread that made them."""
        for task in list(self._scenes):
            self._forget(task)

    def _episode(
        self, job: Job, policy: 'Policy', scene: Scene, instruction: str | None
    ) -> EpisodeResult:
        setting = self._setting
        video = job.video and EpisodeVideo(job.video, job.method.name)
        with video or contextlib.nullcontext():
            result = run_episode(
                policy,
                scene,
                job.key.seed,
                max_steps=setting.max_steps,
                instruction=instruction,
                refresh=setting.refresh,
                on_query=video and video.add_query,
            )
            if video:
                images = upright(scene.images())
                video.finish((images[c] for c in policy.profile.cameras), result)
        return replace(result, simulator=setting.simulator, task=job.key.task)

    def _scene(self, task: str) -> Scene:
        scene = self._scenes.pop(task, None)
        if scene is None:
            while len(self._scenes) >= _SCENES:
                self._forget(next(iter(self._scenes)))
            scene = make_scene(self._setting.simulator, (task,))
        self._scenes[task] = scene
        return scene

    def _forget(self, task: str) -> None:
        scene = self._scenes.pop(task, None)
        if scene is not None:
            with contextlib.suppress(Exception):  # a scene that failed may fail here again
                scene.close()
