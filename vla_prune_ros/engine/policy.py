"""``Policy``: observations in, timed and pruned inferences out.

The frames of an episode in the form in which a pruner compares them.

What a policy remembers from query to query, as bytes: a long replay goes on where it ended.

Prompts as ids on the device, made once per instruction.
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, InputRefused
from ..model.images import check_image, comparison_frame, prepare_image
from ..model.normalization import Statistics
from ..model.openvla import ActInputs, OpenVLAOFT
from ..model.prompt import PromptTokenizer, build_prompt
from ..model.proprio import unnormalize
from ..profiles import Profile
from ..pruning.base import SELECTION, Layout, Pruner, Query
from ..pruning.frames import Frame, FrameHistory
from ..pruning.layout import Target
from ..pruning.registry import build_pruner
from ..pruning.state import pack, unpack
from ..records import Inference, MotionHint, Observation
from .encoder_cache import EncoderCache, normalized_state
from .graphs import Engine, eager
from .quantize import parameter_count
from .timing import StageTimer


class EpisodeFrames:
    """What :class:`~.policy.Policy` keeps for a pruner that looks back; nothing for others.

    :param fast_images: as the policy prepares its pictures.
    """

    def __init__(self, pruner: Pruner, profile: Profile, fast_images: bool) -> None:
        self._halved = pruner.half_resolution
        exact = partial(prepare_image, pre_resize=profile.pre_resize, fast=fast_images)
        self._exact = exact
        self.history = self._new_history(pruner.history_s, profile)
        self._ahead: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def watch(self, camera: str, stamp_ns: int, frame: Frame) -> None:
        """Keep a frame as it came; any thread may call it."""
        if self.history is not None:
            self.history.push(camera, stamp_ns, frame)

    def ahead(self, camera: str, raw: np.ndarray) -> None:
        """Bring a frame of the next query into the form in which it is compared."""
        if self._halved:
            self._ahead[camera] = raw, comparison_frame(raw)

    def query(
        self, stamp_ns: int, raw: Mapping[str, np.ndarray], model_images: Mapping[str, np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        """Keep the frames of a query; returns them as they are compared, by camera.

        :param raw: uint8 (H, W, 3) as the cameras sent them.
        :param model_images: uint8 (224, 224, 3), what the towers see.
        """
        frames = model_images
        if self._halved:
            frames = {c: self._compared(c, raw[c]) for c in model_images}
        if self.history is not None:
            self.history.push_prepared(stamp_ns, frames)
        return frames

    def clear(self) -> None:
        """Forget all frames."""
        if self.history is not None:
            self.history.clear()

    def _compared(self, camera: str, raw: np.ndarray) -> np.ndarray:
        seen, frame = self._ahead.pop(camera, (None, None))
        return frame if seen is raw else comparison_frame(raw)

    def _new_history(self, history_s: float, profile: Profile) -> FrameHistory | None:
        if not history_s:
            return None
        # Half a control period: a camera at the control rate is kept in full, however it jitters.
        spacing_s = 0.5 * min(profile.control_period_s, 0.05)
        length = 2 + math.ceil(history_s / spacing_s)
        return FrameHistory(self._prepare, round(1e9 * spacing_s), length)

    def _prepare(self, image: np.ndarray) -> np.ndarray:
        check_image(image, 'watched')
        return comparison_frame(image) if self._halved else self._exact(image)


_MOST = 64  # an instruction flood must not grow memory


class Prompts:
    """int64 (1, P) ids of the prompt of an instruction, BOS first; the same tensor each time."""

    def __init__(self, tokenizer: PromptTokenizer, device: torch.device) -> None:
        self._tokenizer, self._device = tokenizer, device
        self._ids: dict[str, Tensor] = {}

    def ids(self, instruction: str) -> Tensor:
        """Those of one instruction."""
        if instruction not in self._ids:
            if len(self._ids) >= _MOST:
                self._ids.clear()
            ids = self._tokenizer(build_prompt(instruction))
            self._ids[instruction] = torch.tensor([ids], device=self._device)
        return self._ids[instruction]


class Policy:
    """A loaded checkpoint with a pruning method. Not thread-safe: one thread infers.

    Built by :func:`vla_prune_ros.load_policy`.

    :param diffusion_steps: denoising steps of a diffusion head.
    :param seed: of the noise that a diffusion head starts from; ``reset`` starts it anew.
    :param fast_images: half the preprocessing time, pixels up to 2 levels off.
    :param target: what a pruner for this model is built for; None where it gets no other.
    :param engine: how the network is run.
    """

    def __init__(
        self,
        model: OpenVLAOFT,
        profile: Profile,
        statistics: Statistics,
        tokenizer: PromptTokenizer,
        pruner: Pruner,
        about: Mapping[str, Any],
        diffusion_steps: int = 10,
        seed: int = 0,
        fast_images: bool = False,
        target: Target | None = None,
        engine: Engine = eager,
    ) -> None:
        self.model = model
        self.profile = profile
        self.statistics = statistics
        self.pruner = pruner
        self.tokenizer = tokenizer
        self.target = target
        self._network = model, profile, statistics, tokenizer
        self._options = {
            'about': about,
            'diffusion_steps': diffusion_steps,
            'seed': seed,
            'fast_images': fast_images,
            'target': target,
            'engine': engine,
        }
        self._about = dict(about)
        self._diffusion_steps = diffusion_steps
        self._seed, self._engine = seed, engine
        self._generator = torch.Generator().manual_seed(seed)
        weight = model.language_model.model.norm.weight  # in the activations' dtype, always
        self.device, self.dtype = weight.device, weight.dtype
        cuda = self.device.type == 'cuda'
        self._sync = partial(torch.cuda.synchronize, self.device) if cuda else None
        self._prompts = Prompts(tokenizer, self.device)
        self._frames = EpisodeFrames(pruner, profile, fast_images)
        self._last: tuple[Tensor, Layout] | None = None  # of the last query, for a refresh
        self._wire()

    def _wire(self) -> None:
        """Run the network with the pruner that there is now."""
        self._forward = self._engine(self.model, self.pruner)
        fast = self._options['fast_images']
        self._sight = EncoderCache(self._forward, self.profile, self.device, fast)

    @torch.inference_mode()
    def infer(
        self,
        observation: Observation,
        motion: MotionHint | None = None,
        noise: np.ndarray | None = None,
    ) -> Inference:
        """One action chunk from one observation.

        :param observation: raw camera frames, state and instruction, as the profile expects them.
        :param motion: how the end effector moves; feeds action-aware pruning, None where unknown.
        :param noise: float32 (K, D) that a diffusion head starts from; None draws it.
        :raises InputRefused: a camera is absent, an image or state has the wrong shape or is not
            finite.
        """
        stages = StageTimer(self._sync)
        self._last = None  # a query that fails leaves nothing to refresh
        with stages.stage('preprocess'):
            ids = self._prompts.ids(observation.instruction)
            images = self._sight.prepared(observation, ids)
            state = self._state(observation)
            pictures = self._sight.upload(images)
        with stages.stage('vision'):
            visual = self._sight.look(pictures, ids)
        layout = self.model.layout(self.profile.cameras, ids.shape[1], self.profile.chunk)
        with stages.stage(SELECTION):
            mode = self._begin(observation, layout, images, visual[0], motion)
        diffusion = self._noise(noise), self._diffusion_steps
        inputs = ActInputs(visual, ids, state, layout, self.pruner, mode, *diffusion)
        act = self._forward.act(inputs, stages.stage)
        self._last = act.embeddings, layout
        with stages.stage('head'):
            normalized = act.actions[0].float().cpu().numpy().copy()  # the next query overwrites
            bounds = self.statistics.action
            actions = unnormalize(normalized, bounds.low, bounds.high, bounds.mask)
        by_site = act.walk.masks()
        everything = layout.camera_masks(torch.arange(layout.visual))
        kept = next(reversed(by_site.values()), everything)
        return Inference(
            actions,
            normalized,
            kept,
            by_site,
            mode,
            stages.milliseconds(),
            images,
            build_prompt(observation.instruction),
            observation.stamp_ns,
            self.pruner.report(),
        )

    @torch.inference_mode()
    def look_ahead(self, camera: str, frame: np.ndarray, instruction: str) -> None:
        """Do the camera's share of a query whose other inputs have not come yet.

        The query does it itself where it gets another frame or instruction. Like :meth:`infer`,
        for the thread that infers.

        :param frame: uint8 (H, W, 3) RGB, the very array that the Observation will hold, which
            must not be changed afterwards.
        :raises InputRefused: it is no image, or the profile has no such camera.
        """
        self._sight.ahead(camera, frame, self._prompts.ids(instruction))
        self._frames.ahead(camera, frame)

    def watch(self, camera: str, stamp_ns: int, frame: Frame) -> None:
        """Show a frame that is not queried, so that motion between queries is seen.

        Cheap, and allowed from any thread: the frame waits as it is, and is prepared only if a
        later query compares with it. A pruner that compares no frames ignores it.

        :param frame: uint8 (H, W, 3) RGB as in an Observation, which must not be changed
            afterwards, or a function that returns it. One that turns out to be unusable counts as
            none.
        :raises InputRefused: the profile has no such camera.
        """
        if camera not in self.profile.cameras:
            raise InputRefused(
                'camera',
                f'camera {camera!r} is unknown',
                f'profile {self.profile.name!r} has {list(self.profile.cameras)}',
            )
        self._frames.watch(camera, stamp_ns, frame)

    @torch.inference_mode()
    def refresh(self, proceed: Callable[[], bool] = lambda: True) -> float | None:
        """Look once more at the last query, un-pruned, for what the pruner learns from it.

        Meant for the time in which the robot executes a chunk: scores that are harvested from
        pruned passes feed on themselves. It changes no chunk.

        :param proceed: asked before each layer; False gives the refresh up.
        :returns: milliseconds, or None where there was nothing to refresh or it was given up.
        """
        refresher = self.pruner.refresher()
        if refresher is None or self._last is None:
            return None
        start = time.perf_counter()
        last = max(site.layer for site in refresher.sites)
        reached = -1

        def onward(layer: int) -> bool:
            nonlocal reached
            if layer > last or not proceed():
                return False
            reached = layer
            return True

        self.model.harvest(*self._last, refresher, onward)
        if self._sync is not None:
            self._sync()
        return 1e3 * (time.perf_counter() - start) if reached == last else None

    def with_pruning(self, pruning: 'str | Mapping[str, Any] | Pruner') -> 'Policy':
        """Another policy around the same network, with a pruner of its own.

        :raises ProfileError: the method is unknown, or not possible with this checkpoint.
        """
        return Policy(*self._network, build_pruner(pruning, self.target), **self._options)

    def memory(self) -> bytes:
        """What outlives a query, so that a policy like this one can go on from here.

        :raises DataError: the pruner names something as its state that cannot be stored.
        """
        history = self._frames.history
        state = {
            'pruning': self.pruner.label,
            'pruner': self.pruner.state(),
            'frames': None if history is None else history.state(),
            'noise': self._generator.get_state(),
        }
        return pack(state)

    def restore(self, memory: bytes) -> None:
        """Go on where the policy that gave :meth:`memory` was.

        :raises DataError: that policy pruned by another method.
        """
        state = unpack(memory)
        if state['pruning'] != self.pruner.label:
            raise DataError(
                f'the memory is of {state["pruning"]!r}, the policy prunes by '
                f'{self.pruner.label!r}',
                'restore it into a policy of the same method',
            )
        self.pruner.load_state(state['pruner'])
        if self._frames.history is not None:
            self._frames.history.load_state(state['frames'])
        self._generator.set_state(state['noise'])
        self._last = None
        self._wire()  # captured graphs read the tensors of the state before

    def reset(self) -> None:
        """Forget what the pruner learnt from earlier inferences, and all frames."""
        self.pruner.reset()
        self._last = None
        self._frames.clear()
        self._generator.manual_seed(self._seed)

    def warm_up(self, side: int = 256, instruction: str = 'warm up') -> Inference:
        """Infer on grey frames, so that the first real ones are not slower; resets.

        Where the first query of an episode is dense, the pruned shapes of a fast and a slow arm
        are run too.

        :param instruction: shapes follow from its length; give the one that comes first.
        :returns: the first of them.
        """
        grey = np.full((side, side, 3), 127, np.uint8)
        bounds = self.statistics.proprio
        state = None if bounds is None else bounds.mean
        images = {c: grey for c in self.profile.cameras}
        first = self.infer(Observation(images, state, instruction))
        with torch.inference_mode():
            self._sight.warm_up(side, self._prompts.ids(instruction))
        if first.mode == 'dense' and self.pruner.name != 'dense':
            for speed_m_s in (10.0, 0.0):
                hint = MotionHint(speed_m_s, 0.0, 0.0, 'warm up')
                self.infer(Observation(images, state, instruction), hint)
        self.reset()
        return first

    @property
    def untrained(self) -> bool:
        """True where the weights are random; every result must say so."""
        return bool(self._about['untrained'])

    def describe(self) -> dict[str, Any]:
        """Plain values for status, reports and bug reports."""
        return {
            **self._about,
            'profile': self.profile.name,
            'unnorm_key': self.statistics.key,
            'pruning': self.pruner.label,
            'parameters': parameter_count(self.model),
            'device': str(self.device),
            'engine': self._forward.name,
        }

    def _begin(
        self,
        observation: Observation,
        layout: Layout,
        images: Mapping[str, np.ndarray],
        visual: Tensor,
        motion: MotionHint | None,
    ) -> str:
        stamp_ns = observation.stamp_ns
        frames = self._frames.query(stamp_ns, observation.images, images)
        query = Query(
            layout=layout,
            model_images=images,
            instruction=observation.instruction,
            stamp_ns=stamp_ns,
            motion=motion,
            visual=visual,
            history=self._frames.history,
            frames=frames,
        )
        return self.pruner.begin(query)

    def _state(self, observation: Observation) -> Tensor | None:
        state = normalized_state(observation, self.statistics, self.profile)
        return None if state is None else state.to(self.device, self.dtype)

    def _noise(self, given: np.ndarray | None) -> Tensor | None:
        if self.model.size.head != 'diffusion':
            return None
        shape = (1, self.profile.chunk, self.profile.action_dim)
        if given is None:
            return torch.randn(shape, generator=self._generator).to(self.device)
        return torch.as_tensor(given, dtype=torch.float32, device=self.device).view(shape)
