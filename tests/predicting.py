"""Small models with random weights, for tests of prediction."""

import torch

from cellseg3d_dist.networks.cards import make_card
from cellseg3d_dist.networks.registry import build, for_inference
from cellseg3d_dist.networks.weights import Model
from cellseg3d_dist.representations import representation

RESIDUAL = {
    "architecture": "residual_unet",
    "architecture_options": {"widths": [4, 6]},
    "representation": "bcd",
    "patch": (8, 8, 8),
    "halo": (2, 2, 2),
}
WNET = {
    "architecture": "wnet3d",
    "architecture_options": {"widths": [4, 4, 8, 8]},
    "representation": "foreground",
    "representation_options": {"classes": 2},
    "patch": (16, 16, 16),
    "halo": (4, 4, 4),
}


def card_of(kind, **changes):
    return make_card({"name": "tiny", "voxel_size": (1.0, 1.0, 1.0)} | kind | changes)


def network_of(card, seed=0):
    """Random weights whose output spreads over the 8 bits."""
    torch.manual_seed(seed)
    meaning = representation(card.representation, **card.representation_options)
    whole = build(card.architecture, 1, meaning.n_outputs, **card.architecture_options)
    network = for_inference(whole).eval()
    # normalisation layers that do something
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.uniform_(parameter, -0.5, 0.5)
    *_, last = (m for m in network.modules() if isinstance(m, torch.nn.Conv3d))
    with torch.no_grad():
        last.weight.mul_(4)
    return network


def model_of(kind, network=None, **changes):
    """A model that was never in a file."""
    card = card_of(kind, **changes)
    meaning = representation(card.representation, **card.representation_options)
    return Model(network or network_of(card), card, meaning, "none")
