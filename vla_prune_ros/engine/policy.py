"""``load_policy`` and ``Policy``: a checkpoint folder in, timed and pruned inferences out."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, InputRefused, ProfileError
from ..model.checkpoint import Progress, Statistics, load_model, read_statistics
from ..model.images import check_image, pixel_values, prepare_image
from ..model.openvla import OpenVLAOFT
from ..model.prompt import PromptTokenizer, build_prompt
from ..model.proprio import normalize, unnormalize
from ..profiles import Profile, load_profile
from ..pruning.plan import Layout, Pruner, PruningPass, Query
from ..pruning.registry import build_pruner
from ..records import Inference, MotionHint, Observation
from .stages import StageTimer

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
UNTRAINED_NOTE = 'vla_prune.json'


class Policy:
    """A loaded checkpoint with a pruning method. Not thread-safe: one thread infers.

    Built by :func:`load_policy`.
    """

    def __init__(
        self,
        model: OpenVLAOFT,
        profile: Profile,
        statistics: Statistics,
        tokenizer: PromptTokenizer,
        pruner: Pruner,
        about: Mapping[str, Any],
    ) -> None:
        self.model = model
        self.profile = profile
        self.statistics = statistics
        self.pruner = pruner
        self._tokenizer = tokenizer
        self._about = dict(about)
        weight = model.projector.fc1.weight
        self.device, self.dtype = weight.device, weight.dtype
        self._sync = (
            partial(torch.cuda.synchronize, self.device) if self.device.type == 'cuda' else None
        )
        self._prompts: dict[str, Tensor] = {}

    @torch.inference_mode()
    def infer(self, observation: Observation, motion: MotionHint | None = None) -> Inference:
        """One action chunk from one observation.

        :param observation: raw camera frames, state and instruction, as the profile expects them.
        :param motion: how the end effector moves; feeds action-aware pruning, None where unknown.
        :raises InputRefused: a camera is absent, an image or state has the wrong shape or is not
            finite.
        """
        stages = StageTimer(self._sync)
        with stages.stage('preprocess'):
            images = self._prepare(observation)
            state = self._state(observation)
            pixels = torch.from_numpy(pixel_values(list(images.values()))).to(
                self.device, self.dtype
            )
        with stages.stage('vision'):
            visual = self.model.visual_tokens(pixels)
        with stages.stage('language'):
            ids = self._prompt_ids(observation.instruction)
            layout = self.model.layout(self.profile.cameras, ids.shape[1], self.profile.chunk)
            embeddings = self.model.embed(visual, ids, state, layout)
            mode = self.pruner.begin(
                Query(layout, images, observation.instruction, observation.stamp_ns, motion)
            )
            hidden, walk = self.model.decode(embeddings, layout, self.pruner)
        with stages.stage('head'):
            normalized = self.model.action_head(hidden)[0].float().cpu().numpy()
            bounds = self.statistics.action
            actions = unnormalize(normalized, bounds.low, bounds.high, bounds.mask)
        kept, by_site = _kept(layout, walk)
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
        )

    def reset(self) -> None:
        """Forget what the pruner learnt from earlier inferences."""
        self.pruner.reset()

    def warm_up(self, side: int = 256) -> Inference:
        """Infer once on grey frames, so that the first real one is not slower; resets."""
        grey = np.full((side, side, 3), 127, np.uint8)
        bounds = self.statistics.proprio
        out = self.infer(
            Observation(
                {c: grey for c in self.profile.cameras},
                None if bounds is None else bounds.mean,
                'warm up',
            )
        )
        self.reset()
        return out

    @property
    def untrained(self) -> bool:
        """True where the weights are random; every result must say so."""
        return bool(self._about['untrained'])

    def describe(self) -> dict[str, Any]:
        """Plain values for status, reports and bug reports."""
        parameters = sum(p.numel() for p in self.model.parameters())
        return {
            **self._about,
            'profile': self.profile.name,
            'unnorm_key': self.statistics.key,
            'pruning': self.pruner.name,
            'parameters': parameters,
            'dtype': str(self.dtype).removeprefix('torch.'),
            'device': str(self.device),
        }

    def _prepare(self, observation: Observation) -> dict[str, np.ndarray]:
        out = {}
        for camera in self.profile.cameras:
            if camera not in observation.images:
                raise InputRefused(
                    'camera',
                    f'camera {camera!r} is absent',
                    f'profile {self.profile.name!r} needs {list(self.profile.cameras)}',
                )
            check_image(observation.images[camera], camera)
            out[camera] = prepare_image(observation.images[camera], self.profile.pre_resize)
        return out

    def _state(self, observation: Observation) -> Tensor | None:
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
        scaled = normalize(state, bounds.low, bounds.high, bounds.mask)
        return torch.from_numpy(scaled)[None].to(self.device, self.dtype)

    def _prompt_ids(self, instruction: str) -> Tensor:
        if instruction not in self._prompts:
            if len(self._prompts) >= 64:  # an instruction flood must not grow memory
                self._prompts.clear()
            ids = self._tokenizer(build_prompt(instruction))
            self._prompts[instruction] = torch.tensor([ids], device=self.device)
        return self._prompts[instruction]


def _kept(
    layout: Layout, walk: PruningPass
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    by_site = {name: layout.camera_masks(ids) for name, ids in walk.kept_by_site.items()}
    return layout.camera_masks(walk.ids), by_site


def load_policy(
    checkpoint_dir: str | Path,
    profile: str | Path | Profile = 'libero',
    pruning: str | Mapping[str, Any] | Pruner = 'dense',
    device: str = 'cpu',
    dtype: str = 'float32',
    unnorm_key: str | None = None,
    tokenizer: str | Path | None = None,
    head: str = 'auto',
    progress: Progress = lambda text: None,
) -> Policy:
    """Load a checkpoint folder in the published layout.

    :param profile: ``'libero'``, ``'aloha'``, ``'bridge'``, the path of a YAML profile, or a
        Profile.
    :param pruning: method by name (``'dense'``, ``'uniform:128'``), mapping, or an object.
    :param device: a torch device, for example ``'cpu'`` or ``'cuda'``.
    :param dtype: ``'float32'`` or ``'bfloat16'``.
    :param unnorm_key: key of ``dataset_statistics.json``; needed where there are several.
    :param tokenizer: folder with ``tokenizer.json`` or ``tokenizer.model``; default the
        checkpoint's.
    :param head: ``'l1'``, or ``'auto'``, which finds the head from the files.
    :param progress: called with a line of text at each step of loading.
    :raises CheckpointError: the folder is missing, broken or does not fit the profile.
    :raises ProfileError: a name or knob is unknown.
    """
    folder = Path(checkpoint_dir).expanduser()
    if not folder.is_dir():
        raise CheckpointError(
            f'checkpoint {str(folder)!r} is not a folder',
            'give the folder that holds config.json and the weights',
        )
    profile = load_profile(profile)
    torch_device, torch_dtype = _device(device), _dtype(dtype)
    if head not in ('auto', 'l1'):
        raise ProfileError(f'head {head!r} is unknown', "use 'auto' or 'l1'")
    pruner = build_pruner(pruning)
    statistics = read_statistics(folder, profile, unnorm_key)
    tokens = PromptTokenizer(tokenizer or folder)
    model = load_model(folder, profile, torch_device, torch_dtype, progress)
    return Policy(
        model,
        profile,
        statistics,
        tokens,
        pruner,
        {'checkpoint': str(folder), 'head': 'l1', 'untrained': _untrained(folder)},
    )


def _device(name: str) -> str:
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise ProfileError(f'device {name!r} is unknown', "use 'cpu' or 'cuda'") from None
    if kind == 'cuda' and not torch.cuda.is_available():
        raise ProfileError(
            f'device {name!r} is not available', "use 'cpu' or install a CUDA build of torch"
        )
    return name


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ProfileError(f'dtype {name!r} is unknown', f'use one of {sorted(DTYPES)}')
    return DTYPES[name]


def _untrained(folder: Path) -> bool:
    note = folder / UNTRAINED_NOTE
    return note.is_file() and json.loads(note.read_text(encoding='utf-8')).get('trained') is False
