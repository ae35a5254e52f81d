"""OpenVLA-OFT: checkpoint files, images, prompt and network, in plain torch."""

import logging

# transformers imports torchao where that is installed, and both then report CUDA kernels that a
# CPU build of torch cannot load and a deprecation of their own: nothing that a user can remedy.
for _name in ('torchao', 'torch.utils._pytree'):
    logging.getLogger(_name).setLevel(logging.ERROR)
