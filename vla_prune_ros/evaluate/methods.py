"""Methods as they are named on the command line, and a policy for each around shared weights."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, VlaPruneError
from .machine import checkpoint_fingerprint

if TYPE_CHECKING:
    from ..engine.policy import Policy


@dataclass(frozen=True)
class Method:
    name: str
    pruning: str
    folder: Path
    fingerprint: str  # of the checkpoint, of the method's YAML file and of its weights, by +


def parse_methods(names: tuple[str, ...], checkpoint: Path) -> tuple[Method, ...]:
    """Methods from names like ``'specprune:recommended'``.

    ``'METHOD@FOLDER'`` takes its own weights, for a method that was trained:
    ``'lightvla@reference-lightvla'`` those of this package.

    :raises VlaPruneError: a method is unknown or named twice, or a folder is no checkpoint.
    """
    from ..model.hub import checkpoint_folder
    from ..pruning.registry import build_pruner, read_spec

    if len(set(names)) < len(names):
        raise VlaPruneError(f'methods repeat: {" ".join(names)}', 'name each method once')
    hashes: dict[Path, str] = {}
    methods = []
    for name in names:
        pruning, _, own = name.partition('@')
        build_pruner(pruning)  # a wrong name is refused before anything starts
        spec = read_spec(pruning)
        folder = checkpoint_folder(own) if own else checkpoint
        if folder not in hashes:
            hashes[folder] = checkpoint_fingerprint(folder)
        more = ''
        if pruning.endswith(('.yaml', '.yml')):
            content = Path(pruning).expanduser().read_bytes()
            more = f'+{hashlib.sha256(content).hexdigest()[:16]}'
        if isinstance(spec, Mapping) and spec.get('weights'):  # of the method itself
            more += f'+{checkpoint_fingerprint(Path(spec["weights"]).expanduser())}'
        methods.append(Method(name, pruning, folder, hashes[folder] + more))
    return tuple(methods)


class MethodPolicies:
    """A policy per method; weights of a folder are in memory once."""

    def __init__(self, profile: str, device: str, dtype: str) -> None:
        self._profile, self._device, self._dtype = profile, device, dtype
        self._loaded: dict[Path, Policy] = {}
        self._policies: dict[str, Policy] = {}

    def get(self, method: Method) -> 'Policy':
        """Warmed up."""
        from ..engine.load import load_policy

        if method.name not in self._policies:
            if method.folder in self._loaded:
                policy = self._loaded[method.folder].with_pruning(method.pruning)
            else:
                self._require_same(method)
                policy = self._loaded[method.folder] = load_policy(
                    method.folder, self._profile, method.pruning, self._device, self._dtype
                )
            policy.warm_up()
            self._policies[method.name] = policy
        return self._policies[method.name]

    def _require_same(self, method: Method) -> None:
        # On another machine the folder may hold other weights; here a training may go on.
        if checkpoint_fingerprint(method.folder) != method.fingerprint.partition('+')[0]:
            raise CheckpointError(
                f'{method.folder} is not the checkpoint that the run began with',
                'copy the same one to every machine, and evaluate none that is being written',
            )
