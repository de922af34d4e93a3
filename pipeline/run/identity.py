"""What a stage's result depends on, as its manifest records it, and what is not as a manifest has it."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.artifact import hash_of
from pipeline.parts.train import decisive


@dataclass(frozen=True)
class Identity:
    """Recipe parts, hashes of inputs, of images, of our code, versions of packages and engines.

    `places` says where images and a checkpoint lie: noted for messages and bundles, and no part of the key. Of a stage that
    `trains`, neither are code and versions: days of training are not done again for an update.
    """

    stage: str
    trains: bool
    parts: dict[str, Any]
    inputs: dict[str, str]
    images: dict[str, str]
    versions: dict[str, str | None]
    code: str
    places: dict[str, Any]

    @property
    def key(self) -> str:
        """A stage is complete when its manifest has this key, and goes on where it was interrupted when its work has it."""
        if self.trains:
            return hash_of([self.stage, decisive(self.parts), self.inputs, self.images])
        return hash_of([self.stage, self.parts, self.inputs, self.images, self.versions, self.code])

    def recorded(self) -> dict[str, Any]:
        """Its part of a manifest."""
        return {
            "stage": self.stage, "key": self.key, "recipe": self.parts, "inputs": self.inputs, "images": self.images,
            "versions": self.versions, "code": self.code, "places": self.places,
        }  # fmt: skip


def when(manifest: Mapping[str, Any]) -> str:
    """When a stage was finished, in local time: `2026-11-28 14:02`."""
    finished = manifest.get("finished")
    return datetime.fromisoformat(finished).astimezone().strftime("%Y-%m-%d %H:%M") if finished else "an unknown time"


def differences(
    manifest: Mapping[str, Any], found: Identity, changing: Collection[str], images: Mapping[str, str]
) -> list[str]:
    """Why the key is not the manifest's: recipe keys with both values, inputs, images, versions, our code.

    Inputs that are `changing` are left out: what they will be is not known yet. `images` says in words how some images changed.
    """
    before, now = manifest.get("recipe", {}), found.parts
    if found.trains:
        before, now = decisive(before), decisive(now)
    reasons = [f"recipe: {line}" for line in _changed_keys("", before, now)]
    kept = manifest.get("inputs", {})
    reasons += [f"input: {name} is new" for name in found.inputs if name not in kept]
    reasons += [f"input: {name} is no longer there" for name in kept if name not in {*found.inputs, *changing}]
    reasons += [
        f"input: {name} has changed"
        for name, digest in found.inputs.items()
        if name not in changing and kept.get(name, digest) != digest
    ]
    reasons += _changed_images(manifest, found, images)
    return reasons if found.trains else reasons + [f"version: {line}" for line in made_otherwise(manifest, found)]


def _changed_images(manifest: Mapping[str, Any], found: Identity, images: Mapping[str, str]) -> list[str]:
    known = manifest.get("images", {})
    if manifest.get("schema") == 1 and found.images:
        return ["images: an earlier version of t2t-edge noted where and when they were written, not what they hold"]
    lines = [f"images: {name} is new" for name in found.images if name not in known]
    lines += [f"images: {name} is not used any more" for name in known if name not in found.images]
    lines += [
        f"images: {name} has changed" + (f" ({images[name]})" if images.get(name) else "")
        for name, digest in found.images.items()
        if known.get(name, digest) != digest
    ]
    return lines


def made_otherwise(manifest: Mapping[str, Any], found: Identity) -> list[str]:
    """Which versions differ from those that made a result, and whether our own code does."""
    versions = manifest.get("versions", {})
    lines = [
        f"{name} {versions.get(name) or 'none'} → {found.versions.get(name) or 'none'}"
        for name in dict.fromkeys([*versions, *found.versions])
        if versions.get(name) != found.versions.get(name)
    ]
    return lines if manifest.get("code") == found.code else [*lines, "the code of t2t-edge for it has changed"]


def _changed_keys(prefix: str, before: Any, now: Any) -> list[str]:
    """`train.epochs 4 → 5`, for every leaf that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for key in dict.fromkeys([*before, *now])
            for line in _changed_keys(f"{prefix}.{key}".lstrip("."), before.get(key), now.get(key))
        ]
    return [] if before == now else [f"{prefix} {json.dumps(before)} → {json.dumps(now)}"]
