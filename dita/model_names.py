"""The names of models, the same for every command: published, bundled, hub ids, folders. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from dita import miniature
from dita.shapes import NAMED_SHAPES
from dita.values import known_name

HUB_IDS = {
    "flux-dev": "black-forest-labs/FLUX.1-dev",
    "flux-schnell": "black-forest-labs/FLUX.1-schnell",
    "pixart-alpha-256": "PixArt-alpha/PixArt-XL-2-256x256",
    "pixart-alpha-512": "PixArt-alpha/PixArt-XL-2-512x512",
    "pixart-alpha-1024": "PixArt-alpha/PixArt-XL-2-1024-MS",
    "pixart-sigma-2k": "PixArt-alpha/PixArt-Sigma-XL-2-2K-MS",
    "dit-xl-2-256": "facebook/DiT-XL-2-256",
    "dit-xl-2-512": "facebook/DiT-XL-2-512",
}
"""The diffusers pipeline on the hub that each name of `dita.shapes.NAMED_SHAPES` stands for; Open-Sora has none."""


def canonical(model: str | os.PathLike[str]) -> str:
    """A bundled or published name as dita spells it; anything else, such as a folder's path or a hub id, as it is."""
    text = os.fspath(model) if isinstance(model, (str, os.PathLike)) else ""
    known = (*miniature.MINIATURES, *NAMED_SHAPES)
    if not text or text in known or Path(text).expanduser().is_dir():
        return text
    return known_name(text, known) or text


def published(model: str | os.PathLike[str]) -> str | None:
    """The published name that `model` is, or whose hub id it is; None for any other model."""
    text = canonical(model)
    if text in NAMED_SHAPES:
        return text
    hub_id = known_name(text, HUB_IDS.values())
    return next((name for name, known in HUB_IDS.items() if known == hub_id), None)


def cached_folder(hub_id: str) -> Path | None:
    """The folder in which the hub's cache holds the pipeline `hub_id`, if it does; the network is not used."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub_id, "model_index.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def hub_id_at_hand(name: str) -> str:
    """The hub id that a published name stands for, if its files are in the hub's cache.

    Raises `ValueError` that names the hub id: to download it is for the user to say.
    """
    hub_id = HUB_IDS.get(name)
    if hub_id is None:
        raise ValueError(
            f"{name!r} stands for hpcai-tech/OpenSora-STDiT-v3, which is no pipeline: convert it once by"
            " dita convert-opensora --out FOLDER, and give the folder"
        )
    if cached_folder(hub_id) is None:
        raise ValueError(
            f"{name!r} stands for {hub_id}, which is not in the local cache; give {hub_id} as the model to download it"
        )
    return hub_id
