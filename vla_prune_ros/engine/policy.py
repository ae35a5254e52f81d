import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import DataError, InputRefused
from ..model.images import check_image, comparison_frame, prepare_image
from ..model.normalization import Statistics, normalize, unnormalize
from ..model.openvla import ActInputs, OpenVLAOFT
from ..model.prompt import PromptTokenizer, build_prompt
from ..profiles import Profile
from ..pruning.base import SELECTION, Pruner, Query
from ..pruning.frames import Frame, FrameHistory
from ..pruning.layout import Layout, Target
from ..pruning.registry import build_pruner
from ..pruning.state import pack, unpack
from ..records import Inference, MotionHint, Observation
from .encoder_cache import EncoderCache
from .graphs import Engine, eager
from .quantize import parameter_count
from .timing import StageTimer

MAX_PROMPTS = 64  # an instruction flood must not grow memory
# What unpacking and loading raise for bytes that are no state, or one of other attributes. torch
# asserts that it was built for the device that a tensor was on.
BAD_VALUE = AttributeError, LookupError, TypeError, ValueError
NOT_A_STATE = (*BAD_VALUE, AssertionError, RuntimeError, SafetensorError)


@dataclass(frozen=True, kw_only=True)
class PolicySetup:
    """What a policy is made of, but for its pruner.
    :param about: plain values for reports: ``untrained``, ``checkpoint`` where there is one, ...
    :param target: what a pruner for this model is built for; None where it gets no other.
    :param seed: of the noise that a diffusion head starts from."""

    model: OpenVLAOFT
    profile: Profile
    statistics: Statistics
    tokenizer: PromptTokenizer
    about: Mapping[str, Any]
    target: Target | None = None
    diffusion_steps: int = 10
    seed: int = 0
    fast_images: bool = False
    engine: Engine = eager


class Policy:
    """Built by :func:`vla_prune_ros.load_policy`. Not thread-safe: one thread infers."""

    def __init__(self, setup: PolicySetup, pruner: Pruner) -> None:
        self.setup, self.pruner = setup, pruner
        self.model, self.profile = setup.model, setup.profile
        self.statistics, self.tokenizer = setup.statistics, setup.tokenizer
        weight = setup.model.language_model.model.norm.weight  # in the activations' dtype, always
        self.device, self.dtype = weight.device, weight.dtype
        cuda = self.device.type == 'cuda'
        self._sync = partial(torch.cuda.synchronize, self.device) if cuda else None
        self._generator = torch.Generator().manual_seed(setup.seed)
        self._prompts: dict[str, Tensor] = {}
        self._history = self._new_history()
        self._prefetched_frames: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._last: tuple[Tensor, Layout] | None = None  # of the last query, for a refresh
        self._connect()

    def _connect(self) -> None:
        self.forward = self.setup.engine(self.model, self.pruner)
        self._encoder = EncoderCache(
            self.forward, self.profile, self.device, self.setup.fast_images
        )

    @torch.inference_mode()
    def infer(
        self,
        observation: Observation,
        motion: MotionHint | None = None,
        noise: np.ndarray | None = None,
    ) -> Inference:
        """:param motion: how the end effector moves, for action-aware pruning; None where unknown.
        :param noise: float32 (K, D) that a diffusion head starts from; None draws it.
        :raises InputRefused: a camera is absent, an image or state has the wrong shape or is not
            finite."""
        timer = StageTimer(self._sync)
        self._last = None  # a query that fails leaves nothing to refresh
        with timer.stage('preprocess'):
            prompt_ids = self._prompt_ids(observation.instruction)
            prepared = self._encoder.prepare(observation, prompt_ids)
            proprio = self._proprio(observation)
        with timer.stage('vision'):
            visual = self._encoder.encode_images(prepared, prompt_ids)
        layout = self.model.layout(self.profile.cameras, prompt_ids.shape[1], self.profile.chunk)
        with timer.stage(SELECTION):
            query = Query(
                layout=layout,
                model_images=prepared.images,
                instruction=observation.instruction,
                stamp_ns=observation.stamp_ns,
                motion=motion,
                visual=visual[0],
                history=self._history,
                frames=self._keep_frames(observation, prepared.images),
            )
            mode = self.pruner.begin(query)
        act = self.forward.act(
            ActInputs(
                visual=visual,
                prompt_ids=prompt_ids,
                proprio=proprio,
                layout=layout,
                pruner=self.pruner,
                mode=mode,
                noise=self._noise(noise),
                steps=self.setup.diffusion_steps,
                stage=timer.stage,
            )
        )
        self._last = act.embeddings, layout
        with timer.stage('head'):
            # A copy: a graph's next replay overwrites what it gave.
            normalized = act.actions[0].float().cpu().numpy().copy()
            bounds = self.statistics.action
            actions = unnormalize(normalized, bounds.low, bounds.high, bounds.mask)
        kept_by_site = act.pruning.masks()
        everything = layout.camera_masks(torch.arange(layout.visual))
        return Inference(
            actions=actions,
            normalized=normalized,
            kept=next(reversed(kept_by_site.values()), everything),
            kept_by_site=kept_by_site,
            mode=mode,
            timings_ms=timer.milliseconds(),
            model_images=prepared.images,
            prompt=build_prompt(observation.instruction),
            stamp_ns=observation.stamp_ns,
            pruning=self.pruner.report(),
        )

    @torch.inference_mode()
    def prefetch(self, camera: str, frame: np.ndarray, instruction: str) -> None:
        """Encode one camera's frame ahead of its query. For the thread that infers.
        :param frame: uint8 (H, W, 3) RGB, the very array that the Observation will hold."""
        self._encoder.prefetch(camera, frame, self._prompt_ids(instruction))
        if self.pruner.half_resolution:
            self._prefetched_frames[camera] = frame, comparison_frame(frame)

    def watch(self, camera: str, stamp_ns: int, frame: Frame) -> None:
        """Show a frame that is not queried, so that motion between queries is seen. Cheap, and
        allowed from any thread: it is prepared only if a later query compares with it.
        :param frame: uint8 (H, W, 3) RGB, which must not be changed afterwards, or a function that
            returns it. One that turns out to be unusable counts as none."""
        if camera not in self.profile.cameras:
            raise InputRefused(
                'camera',
                f'camera {camera!r} is unknown',
                f'profile {self.profile.name!r} has {list(self.profile.cameras)}',
            )
        if self._history is not None:
            self._history.push(camera, stamp_ns, frame)

    @torch.inference_mode()
    def refresh(self, proceed: Callable[[], bool] = lambda: True) -> float | None:
        """Run the last query once more, un-pruned, for what the pruner learns from it: scores from
        pruned passes feed on themselves. It changes no chunk. False of ``proceed``, asked before
        each layer, gives it up. Milliseconds, or None where it was given up or not possible."""
        refresher = self.pruner.refresher()
        if refresher is None or self._last is None:
            return None
        start = time.perf_counter()
        complete = self.model.harvest(*self._last, refresher, proceed)
        if self._sync is not None:
            self._sync()
        return 1e3 * (time.perf_counter() - start) if complete else None

    def with_pruning(self, pruning: 'str | Mapping[str, Any] | Pruner') -> 'Policy':
        return Policy(self.setup, build_pruner(pruning, self.setup.target))

    def memory(self) -> bytes:
        """What outlives a query, so that a policy like this one can go on from here."""
        state = {
            'pruning': self.pruner.label,
            'pruner': self.pruner.state(),
            'frames': None if self._history is None else self._history.state(),
            'noise': self._generator.get_state(),
        }
        return pack(state)

    def restore(self, memory: bytes) -> None:
        """:raises DataError: of a policy that pruned by another method, or in another form. What
        was restored until then stays: reset before the next query."""
        try:
            state = unpack(memory)
            if state['pruning'] != self.pruner.label:
                raise DataError(
                    f'the memory is of {state["pruning"]!r}, the policy prunes by '
                    f'{self.pruner.label!r}',
                    'restore it into a policy of the same method',
                )
            self.pruner.load_state(state['pruner'])
            if self._history is not None:
                self._history.load_state(state['frames'])
            self._generator.set_state(state['noise'])
        except NOT_A_STATE as error:
            raise DataError(
                f'the memory is damaged, or of other code ({error!r})',
                'replay from the start: reset the policy instead',
            ) from error
        self._last = None
        self._connect()  # captured graphs read the tensors of the state before

    def reset(self) -> None:
        self.pruner.reset()
        self._last = None
        if self._history is not None:
            self._history.clear()
        self._generator.manual_seed(self.setup.seed)

    def warm_up(self, side: int = 256, instruction: str = 'warm up') -> Inference:
        """Infer on grey frames, so that the first real ones are not slower; resets. Where the
        first query is dense, the pruned shapes of a fast and a slow arm are run too.
        :param instruction: shapes follow from its length; give the one that comes first."""
        grey = np.full((side, side, 3), 127, np.uint8)
        bounds = self.statistics.proprio
        state = None if bounds is None else bounds.mean
        observation = Observation({c: grey for c in self.profile.cameras}, state, instruction)
        first = self.infer(observation)
        with torch.inference_mode():
            self._encoder.warm_up(side, self._prompt_ids(instruction))
        if first.mode == 'dense' and self.pruner.name != 'dense':
            for speed_m_s in (10.0, 0.0):
                self.infer(observation, MotionHint(speed_m_s, 0.0, 0.0, 'warm up'))
        self.reset()
        return first

    @property
    def untrained(self) -> bool:
        """True where the weights are random; every result must say so."""
        return bool(self.setup.about['untrained'])

    @property
    def checkpoint(self) -> Path:
        return Path(self.setup.about['checkpoint'])

    def describe(self) -> dict[str, Any]:
        return {
            **self.setup.about,
            'profile': self.profile.name,
            'unnorm_key': self.statistics.key,
            'pruning': self.pruner.label,
            'parameters': parameter_count(self.model),
            'device': str(self.device),
            'engine': self.forward.name,
        }

    def _prompt_ids(self, instruction: str) -> Tensor:
        """int64 (1, P), BOS first; the same tensor each time, by which a prefetch knows it."""
        if instruction not in self._prompts:
            if len(self._prompts) >= MAX_PROMPTS:
                self._prompts.clear()
            ids = self.tokenizer(build_prompt(instruction))
            self._prompts[instruction] = torch.tensor([ids], device=self.device)
        return self._prompts[instruction]

    def _proprio(self, observation: Observation) -> Tensor | None:
        bounds = self.statistics.proprio
        if bounds is None:
            return None
        state = np.asarray([] if observation.proprio is None else observation.proprio, np.float64)
        if state.shape != bounds.low.shape or not np.isfinite(state).all():
            raise InputRefused(
                'proprio',
                f'proprio is {state.tolist()}',
                f'profile {self.profile.name!r} needs {len(bounds.low)} finite numbers',
            )
        normalized = normalize(state, bounds.low, bounds.high, bounds.mask)[None]
        return torch.from_numpy(normalized).to(self.device, self.dtype)

    def _noise(self, given: np.ndarray | None) -> Tensor | None:
        if self.model.size.head != 'diffusion':
            return None
        shape = (1, self.profile.chunk, self.profile.action_dim)
        if given is None:
            return torch.randn(shape, generator=self._generator).to(self.device)
        return torch.as_tensor(given, dtype=torch.float32, device=self.device).view(shape)

    def _new_history(self) -> FrameHistory | None:
        if not self.pruner.history_s:
            return None
        # Half a control period: a camera at the control rate is kept in full, however it jitters.
        spacing_s = 0.5 * min(self.profile.control_period_s, 0.05)
        length = 2 + math.ceil(self.pruner.history_s / spacing_s)
        return FrameHistory(self._watched_frame, round(1e9 * spacing_s), length)

    def _watched_frame(self, image: np.ndarray) -> np.ndarray:
        check_image(image, 'watched')
        if self.pruner.half_resolution:
            return comparison_frame(image)
        return prepare_image(image, self.profile.pre_resize, self.setup.fast_images)

    def _keep_frames(
        self, observation: Observation, model_images: Mapping[str, np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        """The query's frames as they are compared, by camera; the history keeps them."""
        frames = dict(model_images)
        if self.pruner.half_resolution:
            for camera in frames:
                raw = observation.images[camera]
                prefetched, frame = self._prefetched_frames.pop(camera, (None, None))
                frames[camera] = frame if prefetched is raw else comparison_frame(raw)
        if self._history is not None:
            self._history.push_prepared(observation.stamp_ns, frames)
        return frames
