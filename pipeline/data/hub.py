"""A network's pretrained weights as timm finds them: its configuration, and the one file in the cache that holds the weights."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from calib.errors import InputError
from pipeline.console.figures import one_line

HUB = "hf-hub:"  # in front of owner/name, where a network is not one of timm's own
CONFIG = "config.json"
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Weights:
    """The file `path` in a cache, of the repository or address `source`; `revision` is the repository's, "" of an address."""

    source: str
    path: Path
    revision: str


def is_on_hub(name: str | None) -> bool:
    """Whether a model's name is a repository's, `hf-hub:owner/name`."""
    return (name or "").startswith(HUB)


def is_offline() -> bool:
    """Whether the hub's client may ask nothing: what is not in its cache now is bound to be missing."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def timm_name(name: str, *, fetch: bool = True) -> str:
    """What timm calls the network: a repository by its folder in the cache, where its configuration is or is put."""
    return f"local-dir:{_hub_folder(name, fetch)}" if is_on_hub(name) else name


def network_config(name: str) -> dict[str, Any] | None:
    """timm's configuration of the weights that `name` stands for; None of a network without any, such as a T2T-ViT.

    InputError where `name` is a repository whose configuration is neither in the cache nor to be had, or has a tag that timm does
    not know.
    """
    import timm

    if is_on_hub(name):
        return _hub_config(name)[0]
    try:
        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError as error:
        raise _no_weights(name) from error
    return config.to_dict() if config is not None else None


def architecture(name: str) -> str:
    """The name of timm's network, which a repository's configuration says."""
    return _hub_config(name)[1] if is_on_hub(name) else name


def find_weights(name: str, *, fetch: bool = True) -> Weights:
    """The file with the weights of `name`; it is downloaded into the cache where it is not there and `fetch`.

    InputError where the network has no weights, or where they are not in the cache and cannot be had.
    """
    if is_on_hub(name):
        owner_name = name.removeprefix(HUB)
        path = _in_repository(name, owner_name, _file_names(None), fetch, _hub_folder(name, fetch).name)
        return Weights(owner_name, path, path.parent.name)
    config = network_config(name)
    located = config or {}
    repository, address = located.get("hf_hub_id"), located.get("url")
    if config is None or not (repository or address):
        raise _no_weights(name)
    if not repository:
        return _from_address(name, str(address), fetch)
    path = _in_repository(name, str(repository), _file_names(config.get("hf_hub_filename")), fetch)
    return Weights(str(repository), path, path.parent.name)


def _hub_folder(name: str, fetch: bool = True) -> Path:
    """The folder in the cache with the files of a repository's newest known revision."""
    return _in_repository(name, name.removeprefix(HUB), (CONFIG,), fetch).parent


def _hub_config(name: str) -> tuple[dict[str, Any], str]:
    from timm.models._hub import load_model_config_from_path

    folder = _hub_folder(name)
    try:
        config, found, _ = load_model_config_from_path(folder)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"the {CONFIG} of {name} is not that of a timm network",
            got=f"{folder / CONFIG}: {type(error).__name__}: {_said(error)}", allowed="a repository whose network timm can make",
            next_step="change model.name in the recipe",
        ) from error  # fmt: skip
    return config, found


def _in_repository(name: str, repository: str, files: tuple[str, ...], fetch: bool, revision: str = "") -> Path:
    """Of `files`, the first that is in the cache, else the first that the repository has.

    What is in the cache is taken without asking the hub, which takes minutes to give up where there is no network.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    owner_name, _, asked = repository.partition("@")
    revision = revision or asked
    for file in files:
        found = try_to_load_from_cache(owner_name, file, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    if not fetch and CONFIG not in files:
        raise InputError("the weights are not fetched yet", got=f"{repository}; a run fetches {files[0]}")
    if not is_offline():
        print(f"           fetching {files[0]} of {repository}", flush=True)
    failed: Exception | None = None
    for file in files:
        try:
            with _quiet():
                return Path(hf_hub_download(owner_name, file, revision=revision or None))
        except Exception as error:  # the hub's client raises what its own, the network's and the system's parts raise
            failed = failed or error
            if not isinstance(error, EntryNotFoundError) or isinstance(error, LocalEntryNotFoundError):
                break  # else the repository is there, and may have another of them
    assert failed is not None
    raise _not_to_be_had(name, repository, files[0], failed) from failed


def _from_address(name: str, address: str, fetch: bool) -> Weights:
    """In torch's own cache, where timm puts what has no repository."""
    from torch.hub import download_url_to_file, get_dir

    file = Path(urlparse(address).path).name
    path = Path(get_dir()) / "checkpoints" / file
    if not path.is_file():
        if not fetch:
            raise InputError("the weights are not fetched yet", got=f"{address}; a run fetches {file}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            download_url_to_file(address, str(path), progress=False)
        except OSError as error:
            raise InputError(
                f"the weights of {name} are not there and cannot be downloaded", got=f"{address}: {_said(error)}",
                allowed=f"{file}, in {path.parent}", next_step=_bring(file, path.parent),
            ) from error  # fmt: skip
    return Weights(address, path, "")


def _file_names(named: str | None) -> tuple[str, ...]:
    """The files that timm looks for in a repository, in its order."""
    if named is None:
        return ("model.safetensors", "pytorch_model.bin")
    if named == "open_clip_pytorch_model.bin":
        return ("open_clip_model.safetensors", named)
    return (f"{named.removesuffix('.bin')}.safetensors", named) if named.endswith(".bin") else (named,)


@contextmanager
def _quiet() -> Iterator[None]:
    """The hub's own progress bars move the cursor, and it tells of each try without a network: a log shows neither well."""
    from logging import ERROR

    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown, level = not are_progress_bars_disabled(), logging.get_verbosity()
    logging.set_verbosity(ERROR)
    if shown:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            enable_progress_bars()


def _no_weights(name: str) -> InputError:
    import timm

    base = name.partition(".")[0]
    if not timm.is_model(base):
        return InputError(
            "there is no such model", got=name, allowed="a timm model, or hf-hub:owner/name", next_step="set model.name",
        )  # fmt: skip
    tags = timm.list_pretrained(f"{base}.*")
    return InputError(
        f"timm has no pretrained weights for {name}", got="model.pretrained: true",
        allowed=", ".join(tags[:8]) or "model.checkpoint: a file of weights",
        next_step="set model.name to one of these" if tags else "set model.checkpoint instead of model.pretrained",
    )  # fmt: skip


def _not_to_be_had(name: str, repository: str, file: str, error: Exception) -> InputError:
    from huggingface_hub import constants

    offline = "HF_HUB_OFFLINE is set" if is_offline() else f"{type(error).__name__}: {_said(error)}"
    folder = f"{constants.HF_HUB_CACHE}/models--{repository.partition('@')[0].replace('/', '--')}"
    return InputError(
        f"the pretrained weights of {name} are not in the cache and cannot be fetched",
        got=f"{file} of the hub repository {repository}: {offline}", allowed=f"a copy in {folder}, or a network",
        next_step=_bring(file, Path(folder)),
    )  # fmt: skip


def _bring(file: str, place: Path) -> str:
    if file == CONFIG:
        return f"copy {place} from a machine that has it, or set model.name to a timm model and model.checkpoint to its weights"
    return f"bring {file} and set model.checkpoint: {file} in place of model.pretrained, or copy {place} from a machine with it"


def _said(error: Exception) -> str:
    """The first sentence of a foreign message, in one line and without what colours a terminal."""
    text = one_line(_ESCAPES.sub("", str(error))).partition(". ")[0]
    return text if len(text) <= 160 else f"{text[:159]}…"
