"""Read search spaces from YAML files, given by a shipped name or a path, and write them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import yaml

from nas.config import AtLeast1, at, build
from nas.errors import ConfigError, SpaceError, shown, suggestion
from nas.files import shipped_files, write_atomic
from nas.ranges import Range
from nas.spaces.backbone import Backbone, Latent, Text
from nas.spaces.backbone_space import BackboneSpace
from nas.spaces.clip import ClipKeys
from nas.spaces.operators import NONE, Operator
from nas.spaces.pipeline import AutoencoderKeys, Decoder, DecoderKeys, TextEncoder, VAEConfig
from nas.spaces.public_autoencoder import config_folder, find_public, read_public_config
from nas.spaces.space import CostOnlySpace, SearchSpace
from nas.yaml_files import read_yaml


@dataclass(frozen=True)
class SpaceFile:
    """The keys of a search-space file.

    A space with a backbone has `backbone`, `clip` and `autoencoder` (or the shape that follows from them, `latent`),
    `text` and `operators`; each site then has `depth` slots that offer every operator, unless `sites` lists the choices of
    a site, or `slots` lists all slots. A cost-only space has only `slots` and `links`. `text_encoder` and `autoencoder` are needed for
    the generation time of a whole clip.

    Attributes:
        clip: the clip's length, fps and size in pixels; beside `latent`, what it says is checked.
        autoencoder: compresses a clip to latents; `decoder.vae` is the same.
        decoder: how many latent frames are decoded per run.
        operators: hyperparameters by choice name, and `kind` if the name is not the kind; `none` is an empty slot.
        sites: choices by site, for sites that differ from the others.
        only_sites: if given, the only sites with slots.
        links: see `SearchSpace`.
    """

    name: str
    description: str = ""
    backbone: Backbone | None = None
    latent: Latent | None = None
    text: Text | None = None
    clip: ClipKeys | None = None
    autoencoder: AutoencoderKeys | None = None
    text_encoder: TextEncoder | None = None
    decoder: DecoderKeys | None = None
    dtype: str = "float32"
    batch: AtLeast1 = 1
    depth: Annotated[int, Range(1, 64)] = 1
    operators: dict[str, Any] = field(default_factory=dict)
    sites: dict[str, tuple[str, ...]] = field(default_factory=dict)
    only_sites: tuple[str, ...] | None = None
    slots: dict[str, tuple[str, ...]] | None = None
    links: tuple[tuple[str, str], ...] = ()


def shipped_spaces() -> dict[str, Path]:
    """Paths of the shipped search spaces by name."""
    return shipped_files("search_spaces", "*.yaml")


def load_space(name: str | Path) -> SearchSpace:
    """See `SearchSpace.load`."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        known = shipped_spaces()
        if str(name) not in known:
            hint = suggestion(str(name), known)
            raise SpaceError(f"unknown search space '{name}': give a shipped name or the path of a .yaml file{hint}")
        path = known[str(name)]
    try:
        mapping = read_yaml(path, "search space")
        file = build(SpaceFile, mapping, str(path))
    except ConfigError as error:
        raise SpaceError(str(error)) from None
    try:
        return _space(file, mapping, str(path))
    except ConfigError as error:
        text = str(error)
        raise SpaceError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def save_space(space: SearchSpace, path: str | Path) -> Path:
    """See `SearchSpace.save`."""
    value: dict[str, Any] = {"name": space.name}
    if isinstance(space, BackboneSpace):
        names = ("backbone", "latent", "text", "text_encoder", "decoder")
        parts = {name: getattr(space, name) for name in names}
        value |= {name: _plain(asdict(part)) for name, part in parts.items() if part is not None}
        value |= {"clip": {"fps": space.fps}} if space.fps is not None else {}
        value |= {"dtype": space.dtype, "batch": space.batch}
        value["operators"] = {n: {"kind": o.kind, **dict(o.options)} for n, o in space.operators.items()}
    value["slots"] = {slot: list(choices) for slot, choices in space.slots.items()}
    if not isinstance(space, BackboneSpace) and space.links:
        value["links"] = [list(pair) for pair in space.links]
    return write_atomic(path, yaml.safe_dump(value, sort_keys=False, default_flow_style=None))


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists, for YAML, and without the entries that are None."""
    lists = {key: list(v) if isinstance(v, tuple) else v for key, v in value.items() if v is not None}
    return {key: _plain(v) if isinstance(v, dict) else v for key, v in lists.items()}


def _space(file: SpaceFile, mapping: Any, path: str) -> SearchSpace:
    if file.backbone is None:
        if not file.slots:
            raise SpaceError(f"{path}: needs either 'backbone' (with latent, text, operators) or 'slots'")
        for key in ("text_encoder", "decoder", "autoencoder", "clip"):
            if getattr(file, key) is not None:
                raise SpaceError(f"{at(path, mapping, key)}: {key}: needs a 'backbone' beside it")
        return CostOnlySpace(file.name, file.slots, links=file.links)
    if file.links:
        raise SpaceError(f"{at(path, mapping, 'links')}: links: the backbone's skip connections give them; remove it")
    if file.slots is not None and (file.sites or file.only_sites is not None or "depth" in mapping):
        raise SpaceError(
            f"{at(path, mapping, 'slots')}: 'slots' lists all slots; remove 'depth', 'sites' and 'only_sites'"
        )
    if file.text is None:
        raise SpaceError(f"{path}: a backbone needs 'latent' or 'clip', and 'text', beside it")
    decoder = _decoder(file, mapping, path)
    latent = file.latent or _latent(file.clip, decoder, len(file.backbone.channels), mapping, path)
    operators = _operators(mapping.get("operators") or {}, path)
    known = file.backbone.sites(latent)
    for key in ("sites", "only_sites"):
        for site in getattr(file, key) or ():
            if site not in known:
                line = at(path, mapping.get("sites"), site) if key == "sites" else at(path, mapping, key)
                raise SpaceError(f"{line}: {key}: unknown site '{site}'{suggestion(site, known)}")
    names = [site for site in known if file.only_sites is None or site in file.only_sites]
    offered = tuple(mapping.get("operators") or {})
    slots = file.slots or {f"{site}/{i}": file.sites.get(site, offered) for site in names for i in range(file.depth)}
    space = BackboneSpace(
        file.name,
        slots,
        operators,
        file.backbone,
        latent,
        file.text,
        file.dtype,
        file.batch,
        file.text_encoder,
        decoder,
        file.clip.fps if file.clip else None,
    )
    if file.clip is not None:
        with _line(path, mapping, "clip"):
            file.clip.check(latent, space.autoencoder)
    return space


def _decoder(file: SpaceFile, mapping: Any, path: str) -> Decoder | None:
    """The decoder that `autoencoder` or `decoder.vae`, and `decoder.frames`, declare."""
    vae = _vae(file.autoencoder, mapping, path) if file.autoencoder else None
    if file.decoder is None:
        return Decoder(vae) if vae else None
    own = file.decoder.vae
    if vae is not None and own is not None:
        raise SpaceError(f"{at(path, mapping, 'decoder')}: decoder.vae: is the same as 'autoencoder'; remove one")
    if (vae := vae or own) is None:
        raise SpaceError(f"{at(path, mapping, 'decoder')}: decoder: needs 'autoencoder' beside it")
    return Decoder(vae, file.decoder.frames)


FROM_PUBLIC = ("latent_channels", "image_channels", "temporal_compression", "spatial_compression")
"""Keys of `autoencoder` that `from` decides; they may be stated beside it."""


def _vae(keys: AutoencoderKeys, mapping: Any, path: str) -> VAEConfig:
    """The autoencoder that `autoencoder` declares; with `from`, the decoder that is distilled from that one's.

    The latents' normalization stays with the public autoencoder: some have it among their weights.
    """
    if keys.public is None:
        return keys.to_config()
    given = mapping["autoencoder"]
    try:
        source = find_public(keys.public, Path(path).parent)
        public = read_public_config(config_folder(source))
    except ConfigError as error:
        raise SpaceError(f"{at(path, given, 'from')}: autoencoder.from: {error}") from None
    decided = {name: getattr(public, name) for name in FROM_PUBLIC[:-1]} | {"spatial_compression": public.downsampling}
    for name in given:
        if name in decided and given[name] != decided[name]:
            raise SpaceError(
                f"{at(path, given, name)}: autoencoder.{name}: {given[name]}, but that of {keys.public} is {decided[name]}; "
                "remove one of the two"
            )
        if name in ("scaling_factor", "latents_mean", "latents_std"):
            raise SpaceError(f"{at(path, given, name)}: autoencoder.{name}: is that of {keys.public}; remove it")
    try:
        own = replace(keys, public=None, **decided).to_config()
    except ConfigError as error:
        text = str(error).removeprefix("autoencoder.")
        raise SpaceError(f"{at(path, given, 'from')}: autoencoder.{text}") from None
    return replace(own, encoder=source)


def _latent(clip: ClipKeys | None, decoder: Decoder | None, levels: int, mapping: Any, path: str) -> Latent:
    """The shape of a clip's latents."""
    if clip is None:
        raise SpaceError(f"{path}: a backbone needs 'latent' or 'clip', and 'text', beside it")
    if decoder is None:
        raise SpaceError(
            f"{at(path, mapping, 'clip')}: clip: needs 'autoencoder' beside it, which gives the latents' shape"
        )
    with _line(path, mapping, "clip"):
        return clip.to_latent(decoder.vae, levels)


@contextlib.contextmanager
def _line(path: str, mapping: Any, key: str) -> Iterator[None]:
    """Add the line of a key to errors."""
    try:
        yield
    except SpaceError as error:
        raise SpaceError(f"{at(path, mapping, key)}: {error}") from None


def _operators(mapping: Any, path: str) -> dict[str, Operator]:
    operators = {}
    for name, options in mapping.items():
        line = at(path, mapping, name)
        options = {} if options is None else options
        if not isinstance(options, dict):
            raise SpaceError(f"{line}: operators.{name}: expected a mapping of hyperparameters, found {shown(options)}")
        if name == NONE:
            if options:
                raise SpaceError(f"{line}: operators.none: has no hyperparameters")
            continue
        options = dict(options)
        try:
            operators[name] = Operator(options.pop("kind", name), tuple(options.items()))
        except SpaceError as error:
            raise SpaceError(f"{line}: operators.{name}: {error}") from None
    return operators
