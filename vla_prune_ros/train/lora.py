"""What of a policy is trained: everything, or peft's low-rank updates; and the merged weights."""

from torch import Tensor, nn

from ..errors import VlaPruneError
from ..model.openvla import OpenVLAOFT
from .config import Lora

# Trained without LoRA, as in the authors' ``finetune.py``.
WHOLE = ('action_head', 'proprio_projector')

_TABLE = 'embed_tokens'


def choose_trainable(policy: OpenVLAOFT, lora: Lora | None) -> None:
    """Everything but the embedding table, or low-rank updates of every linear layer together with
    head and state projector."""
    policy.requires_grad_(False)
    if lora is None:
        for name, p in policy.named_parameters():
            p.requires_grad_(_TABLE not in name)
        return
    _add(policy, lora)
    for name, module in policy.named_children():
        if name in WHOLE:
            module.requires_grad_(True).float()


def _add(policy: OpenVLAOFT, lora: Lora) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise VlaPruneError(
            'peft is not installed', "install vla_prune_ros[train], or set 'lora: null'"
        ) from None
    linear = [
        name
        for name, module in policy.named_modules()
        if isinstance(module, nn.Linear)
        and name.split('.')[0] not in WHOLE
        and 'lm_head' not in name
    ]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        init_lora_weights='gaussian',
        target_modules=linear,
    )
    inject_adapter_in_model(config, policy)


def merged(policy: nn.Module) -> dict[str, Tensor]:
    """The state dict of ``policy`` with its low-rank updates added in float32, under the names
    that it had before them; the modules stay as they are."""
    updates = {
        name: module for name, module in policy.named_modules() if hasattr(module, 'lora_A')
    }
    weights = {}
    for name, value in policy.state_dict().items():
        if '.lora_' in name:
            continue
        owner, _, leaf = name.rpartition('.')
        layer = updates.get(owner.removesuffix('.base_layer'))
        if layer is not None and leaf == 'weight':
            delta = layer.get_delta_weight('default')
            value = (value.float() + delta.float()).to(value.dtype)
        weights[name.replace('.base_layer.', '.')] = value.detach()
    return weights
