"""A network's pretrained weights as timm finds them: its configuration, and the one file in the cache that holds the weights."""

import json
import re
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


def network_config(name: str) -> dict[str, Any] | None:
    """timm's configuration of the weights that `name` stands for; None of a network without any, such as a T2T-ViT.

    InputError where `name` is a repository whose configuration is neither in the cache nor to be had.
    """
    import timm

    if is_on_hub(name):
        return _hub_config(name.removeprefix(HUB))[0]
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return config.to_dict() if config is not None else None


def hub_architecture(name: str) -> str:
    """The name of timm's network in the repository `hf-hub:owner/name`."""
    return _hub_config(name.removeprefix(HUB))[1]


def find_weights(name: str, *, fetch: bool = True) -> Weights:
    """The file with the weights of `name`, which timm loads; it is downloaded into the cache where it is not there and `fetch`.

    InputError where the network has no weights, or where they are not in the cache and cannot be had.
    """
    config = network_config(name)
    repository, address = (config or {}).get("hf_hub_id"), (config or {}).get("url")
    if config is None or not (repository or address):
        raise _no_weights(name)
    if repository:
        return _from_repository(name, repository, config.get("hf_hub_filename"), fetch)
    return _from_address(name, str(address), fetch)


def _hub_config(repository: str) -> tuple[dict[str, Any], str]:
    from timm.models import load_model_config_from_hf

    try:
        config, architecture, _ = load_model_config_from_hf(repository)
    except (KeyError, json.JSONDecodeError) as error:
        raise InputError(
            f"the {CONFIG} of {repository} is not that of a timm network", got=f"{type(error).__name__}: {_said(error)}",
            allowed="a repository whose network timm can make", next_step="change model.name in the recipe",
        ) from error  # fmt: skip
    except Exception as error:  # the hub's client raises what its own, the network's and the system's parts raise
        raise _not_to_be_had(f"{HUB}{repository}", repository, CONFIG, error) from error
    return config, architecture


def _from_repository(name: str, repository: str, named: str | None, fetch: bool) -> Weights:
    """Of the files that timm tries, the first that is there: safetensors before what torch saved."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    repository_id, _, revision = repository.partition("@")
    failed: Exception | None = None
    names = _file_names(named)
    for file in names:
        found = try_to_load_from_cache(repository_id, file, revision=revision or None)
        if isinstance(found, str):
            return Weights(repository, Path(found), Path(found).parent.name)
    if not fetch:
        raise InputError("the weights are not fetched yet", got=f"{repository}; a run fetches {names[0]}")
    print(f"           fetching {names[0]} of {repository}", flush=True)
    for file in names:
        try:
            with _no_bars():
                path = Path(hf_hub_download(repository_id, file, revision=revision or None))
            return Weights(repository, path, path.parent.name)
        except EntryNotFoundError as error:  # another of them may be there
            failed = failed or error
        except Exception as error:  # see `_hub_config`
            raise _not_to_be_had(name, repository, names[0], error) from error
    assert failed is not None
    raise _not_to_be_had(name, repository, names[0], failed) from failed


def _from_address(name: str, address: str, fetch: bool) -> Weights:
    """In torch's own cache, where timm puts what has no repository."""
    from timm.models import load_state_dict_from_hf  # noqa: F401  (timm's models are there)
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


class _no_bars:
    """The hub's own progress bars move the cursor, which a log cannot show."""

    def __enter__(self) -> None:
        from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars

        self.before = are_progress_bars_disabled()
        if not self.before:
            disable_progress_bars()

    def __exit__(self, *_: object) -> None:
        from huggingface_hub.utils.tqdm import enable_progress_bars

        if not self.before:
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
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    offline = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else f"{type(error).__name__}: {_said(error)}"
    folder = f"{HF_HUB_CACHE}/models--{repository.partition('@')[0].replace('/', '--')}"
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
