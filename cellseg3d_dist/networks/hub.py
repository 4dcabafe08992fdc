"""Weights from a hub of models, pinned to one revision and cached for nodes without a network."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from cellseg3d_dist.errors import EnvironmentFailedError, WeightsError

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ADDRESS = re.compile(
    rf"^hub:(?P<repository>{_PART}/{_PART})@(?P<revision>[0-9a-f]{{40}}|[0-9a-f]{{64}})"
    rf"/(?P<file>(?:{_PART}/)*{_PART})\.safetensors$"
)
_FORM = "hub:owner/repository@revision/file.safetensors"


def fetch(address: str) -> tuple[Path, Path]:
    """Files of weights and card, from the cache or from the hub.

    Parameters
    ----------
    address : str
        ``hub:owner/repository@revision/file.safetensors``, the revision a commit hash of 40
        or 64 hexadecimal digits: names of branches and tags may come to mean other files.

    Raises
    ------
    WeightsError
        If the address has another form, has no such revision, or there is no such file.
    EnvironmentFailedError
        If ``huggingface_hub`` is not installed, or the file is neither in the cache nor
        can the hub be reached.
    """
    found = _ADDRESS.match(address)
    if found is None:
        raise WeightsError(
            f"model {address[:200]!r} must have the form {_FORM}, with a commit hash of 40 or 64 "
            f"hexadecimal digits as the revision: branches and tags can move."
        )
    weights, card = (_file(address, found, suffix) for suffix in (".safetensors", ".json"))
    return weights, card


def _file(address: str, parts: re.Match[str], suffix: str) -> Path:
    client = _client()
    wanted: dict[str, Any] = {
        "repo_id": parts["repository"],
        "filename": parts["file"] + suffix,
        "revision": parts["revision"],
    }
    try:
        # a hash never changes its meaning, so what is cached is right
        return Path(client.hf_hub_download(**wanted, local_files_only=True))
    except client.errors.LocalEntryNotFoundError:
        pass
    try:
        return Path(client.hf_hub_download(**wanted))
    # offline, or unreachable: said of any file, also of one that does not exist
    except client.errors.LocalEntryNotFoundError as error:
        raise EnvironmentFailedError(
            f"{wanted['filename']} of {address} is not in the cache of huggingface_hub, and the "
            f"hub cannot be reached. Load it once where there is a network, or copy HF_HOME."
        ) from error
    except (client.errors.HfHubHTTPError, ValueError) as error:
        raise WeightsError(
            f"model {address}: {wanted['filename']} cannot be loaded from the hub: "
            f"{' '.join(str(error).split())[:200]}."
        ) from error
    except OSError as error:
        raise EnvironmentFailedError(
            f"{wanted['filename']} of {address} cannot be loaded: {error}."
        ) from error


def _client() -> Any:
    try:
        client = importlib.import_module("huggingface_hub")
        importlib.import_module("huggingface_hub.errors")
    except ImportError:
        raise EnvironmentFailedError(
            "models of a hub need huggingface_hub. Install cellseg3d_dist[hub]."
        ) from None
    return client
