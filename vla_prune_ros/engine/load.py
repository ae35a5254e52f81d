import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import ProfileError
from ..model.checkpoint import find_variant, load_model, read_size
from ..model.files import Progress
from ..model.heads import TRAIN_STEPS
from ..model.hub import checkpoint_folder
from ..model.normalization import read_statistics
from ..model.openvla import ModelSize
from ..model.prompt import PromptTokenizer
from ..model.vision import PATCHES
from ..profiles import Profile, load_profile
from ..pruning.base import Pruner
from ..pruning.layout import Target, Trained, read_trained
from ..pruning.registry import build_pruner
from .graphs import choose_engine
from .policy import Policy, PolicySetup
from .quantize import KINDS, NOTE, quantize_module, require_library

DTYPES = {
    'float32': torch.float32,
    'bfloat16': torch.bfloat16,
    **dict.fromkeys(KINDS, torch.bfloat16),  # of activations
}
UNTRAINED_NOTE = 'vla_prune.json'


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What :func:`load_policy` takes by keyword.
    :param unnorm_key: key of ``dataset_statistics.json``; needed where there are several.
    :param tokenizer: folder with ``tokenizer.json`` or ``tokenizer.model``, else the checkpoint's.
    :param head: ``'l1'``, ``'diffusion'``, ``'discrete'``, or ``'auto'``: found from the files.
    :param diffusion_steps: denoising steps of a diffusion head, 1 ... 50.
    :param fast_images: about half the preprocessing time, pixels 0.4 levels off on average.
    :param cameras: replaces the profile's. No published file records how many there were in
        training, and the weights have the same shapes for any number: a wrong choice acts badly.
    :param progress: called with a line of text at each step of loading.
    :param engine: ``'eager'``; ``'graphs'``: CUDA graphs; ``'auto'``: graphs on a CUDA device,
        where the method allows it: ``Policy.describe()['engine']`` says what is done and why."""

    unnorm_key: str | None = None
    tokenizer: str | Path | None = None
    head: str = 'auto'
    diffusion_steps: int = 10
    fast_images: bool = False
    cameras: str | tuple[str, ...] | None = None
    progress: Progress = lambda text: None
    engine: str = 'auto'


def load_policy(
    checkpoint_dir: str | Path,
    profile: str | Path | Profile = 'libero',
    pruning: str | Mapping[str, Any] | Pruner = 'dense',
    device: str = 'cpu',
    dtype: str = 'float32',
    **options: Any,
) -> Policy:
    """:param checkpoint_dir: a folder in the published layout, or a name on the Hugging Face hub
        (``'org/name'``), whose files are fetched once into its cache; no code of it is run.
    :param profile: ``'libero'``, ``'aloha'``, ``'bridge'``, a YAML file's path, or a Profile.
    :param pruning: method by name (``'dense'``, ``'uniform:128'``, ``'specprune'``), mapping, path
        of a YAML file, or a Pruner; docs/methods.md has them all.
    :param dtype: ``'float32'``, ``'bfloat16'``, or weight-only ``'int8'`` or ``'int4'`` with
        bfloat16 activations: half or a third of bfloat16's memory, and slower than it.
    :param options: fields of :class:`LoadOptions`.
    :raises CheckpointError: the folder or hub name is not usable, or does not fit the profile.
    :raises ProfileError: a name or option is unknown."""
    wanted = LoadOptions(**options)
    profile = load_profile(profile)
    if wanted.cameras is not None:
        one = isinstance(wanted.cameras, str)
        profile = replace(profile, cameras=(wanted.cameras,) if one else tuple(wanted.cameras))
    torch_dtype = check_device_and_dtype(device, dtype)
    engine = choose_engine(wanted.engine, device)
    if not 1 <= wanted.diffusion_steps <= TRAIN_STEPS:
        raise ProfileError(
            f'diffusion_steps is {wanted.diffusion_steps}',
            f'use 1 to {TRAIN_STEPS}, the training steps',
        )
    build_pruner(pruning, pruner_target(profile))  # a wrong name is refused before a download
    folder = checkpoint_folder(checkpoint_dir, wanted.progress)
    variant = find_variant(folder, profile, wanted.head)
    target = pruner_target(profile, read_size(folder, profile, variant), read_trained(folder))
    pruner = build_pruner(pruning, target)  # and unsuitable weights before they are read
    if not variant.proprio:
        profile = replace(profile, proprio_dim=0, proprio_kind='none')
    statistics = read_statistics(folder, profile, wanted.unnorm_key)
    tokenizer = PromptTokenizer(wanted.tokenizer or folder)
    loaded = None
    if dtype in KINDS:
        require_library()  # before minutes of loading
        loaded = partial(quantize_module, kind=dtype)
    progress = wanted.progress
    model = load_model(
        folder, profile, variant, device, torch_dtype, progress=progress, loaded=loaded
    )
    note = folder / UNTRAINED_NOTE
    setup = PolicySetup(
        model=model,
        profile=profile,
        statistics=statistics,
        tokenizer=tokenizer,
        about={
            'dtype': dtype,
            'note': NOTE if dtype in KINDS else '',
            'checkpoint': str(folder),
            'head': variant.head,
            'film': variant.film,
            'proprio': variant.proprio,
            'untrained': note.is_file()
            and json.loads(note.read_text(encoding='utf-8')).get('trained') is False,
        },
        target=target,
        diffusion_steps=wanted.diffusion_steps,
        fast_images=wanted.fast_images,
        engine=engine,
    )
    return Policy(setup, pruner)


def pruner_target(
    profile: Profile, size: ModelSize | None = None, trained: Trained | None = None
) -> Target:
    delta_pose = profile.action_kind == 'delta_pose'
    return Target(
        cameras=profile.cameras,
        patches=PATCHES,
        layers=Target.layers if size is None else size.text.num_hidden_layers,
        chunk=profile.chunk,
        control_period_s=profile.control_period_s,
        step_m=float(profile.action_scale[0]) if delta_pose else Target.step_m,
        step_rad=float(profile.action_scale[3]) if delta_pose else Target.step_rad,
        trained=trained,
        width=Target.width if size is None else size.text.hidden_size,
    )


def check_device_and_dtype(device: str, dtype: str) -> torch.dtype:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ProfileError(f'device {device!r} is unknown', "use 'cpu' or 'cuda'") from None
    if kind == 'cuda' and not torch.cuda.is_available():
        raise ProfileError(
            f'device {device!r} is not available', "use 'cpu' or install a CUDA build of torch"
        )
    if dtype not in DTYPES:
        raise ProfileError(f'dtype {dtype!r} is unknown', f'use one of {sorted(DTYPES)}')
    return DTYPES[dtype]
