"""A checkpoint by its name: the package's own, or one of the Hugging Face hub, of whose files only
those that are read are fetched, never code."""

import io
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.std import tqdm

from ..errors import CheckpointError

if TYPE_CHECKING:
    from .files import Progress  # imports torch, which evaluate's main process does without

# The folder's own files; patterns are anchored, so LoRA adapters in sub-folders stay away.
FILES = """
    config.json generation_config.json preprocessor_config.json dataset_statistics.json
    model*.safetensors model.safetensors.index.json vla_prune.json pruning.json pruning.safetensors
    action_head--*_checkpoint.pt proprio_projector--*_checkpoint.pt
    noisy_action_projector--*_checkpoint.pt vision_backbone--*_checkpoint.pt
    tokenizer.json tokenizer.model tokenizer_config.json special_tokens_map.json added_tokens.json
"""
# Policies of the package for the two-cube tasks; the second was trained on for ``lightvla``.
REFERENCE, REFERENCE_LIGHTVLA = 'reference', 'reference-lightvla'
_HUB_ID = re.compile(r'[A-Za-z0-9][\w.-]*/[\w.-]+')


def is_hub_id(text: str) -> bool:
    """``org/name``, unless ``org`` is a folder here: then it is a path with a typing error."""
    return bool(_HUB_ID.fullmatch(text)) and not Path(text.split('/')[0]).exists()


def checkpoint_folder(checkpoint: str | Path, progress: 'Progress' = lambda text: None) -> Path:
    """:param checkpoint: a folder, a hub's ``'org/name'``, ``'reference'`` or
        ``'reference-lightvla'``.
    :raises CheckpointError: no such folder; the hub cannot be reached, does not know the name, or
        wants a login."""
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return folder
    if str(checkpoint) in (REFERENCE, REFERENCE_LIGHTVLA):
        return reference_folder(str(checkpoint))
    if is_hub_id(str(checkpoint)):
        return _fetch(str(checkpoint), progress)
    raise CheckpointError(
        f'checkpoint {str(folder)!r} is not a folder',
        'give the folder that holds config.json and the weights',
    )


def reference_folder(name: str = REFERENCE) -> Path:
    package = Path(__file__).resolve().parents[1]
    inside = Path('models', name)
    places = [package.parent / inside]
    places += [above / 'share' / package.name / inside for above in package.parents]
    for place in places:
        if (place / 'config.json').is_file():
            return place
    raise CheckpointError(
        f'the policy {name!r} is not installed beside the package',
        'train it with vla-prune train reference (docs/training.md), or give a checkpoint folder',
    )


def _fetch(name: str, progress: 'Progress') -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    progress(f'looking up {name} on the Hugging Face hub')
    what = f'checkpoint {name!r} is not a folder'
    try:
        folder = huggingface_hub.snapshot_download(
            name,
            allow_patterns=FILES.split(),
            ignore_patterns=['*.py', '*/*'],
            tqdm_class=_meter(name, progress),
        )
        return Path(folder)
    except errors.GatedRepoError:
        what += ', and the hub gives it only to users who accepted its terms'
        remedy = 'accept them on its page and run hf auth login, or fetch it by hand'
    except errors.RepositoryNotFoundError:
        what += ', and the hub has no public repository of that name'
        remedy = 'check the spelling; for a private one run hf auth login'
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError):
        offline = huggingface_hub.constants.HF_HUB_OFFLINE
        why = 'HF_HUB_OFFLINE is set' if offline else 'the hub cannot be reached'
        what += f', and {why} while it is not whole in the cache'
        remedy = 'fetch it by hand and give the folder' + (', or unset it' if offline else '')
    except Exception as error:  # HTTP, proxy and disk errors of several libraries
        what += f' and cannot be fetched ({(str(error).splitlines() or [repr(error)])[0]})'
        remedy = 'try again, or fetch it by hand and give the folder'
    raise CheckpointError(what, remedy)


def _meter(name: str, progress: 'Progress') -> type[tqdm]:
    lock, reported = threading.Lock(), [-1]

    class Meter(tqdm):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **{**kwargs, 'file': io.StringIO(), 'disable': False})

        def display(self, *args: object, **kwargs: object) -> None:
            if self.unit != 'B' or not self.total:
                return
            with lock:
                percent = int(100 * self.n / self.total)
                if percent > reported[0]:
                    reported[0] = percent
                    progress(f'fetching {name}: {self.n / 1e9:.2f} of {self.total / 1e9:.2f} GB')

    return Meter
