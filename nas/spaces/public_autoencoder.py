"""What the config.json of one of diffusers' autoencoders says about its latents: shape, compression, normalization.

Every key of a config must be known here, since diffusers ignores those that its classes do not know, and leaves the
normalization of latents to its pipelines.
"""

from __future__ import annotations

from pathlib import Path

from nas.config import build
from nas.errors import ConfigError, suggestion
from nas.files import download_from_hub, local_or_hub, read_json
from nas.spaces.public_configs import KINDS, PublicVAEConfig

IGNORED = {"_class_name", "_diffusers_version", "_name_or_path", "_use_default_values", "sample_size", "dropout"}
"""Keys of a config that do not change what a trained model computes."""
CONFIGS = ("vae/config.json", "config.json")
"""Where a folder or a repository has the config of an autoencoder."""


def find_public(name: str, base: Path | None = None) -> str:
    """The absolute folder with the config.json of the public autoencoder that a file names, or its name on the Hub.

    Args:
        name: a folder, relative to `base`, which may be that of a pipeline with the autoencoder in `vae/`; or a Hub name.

    Raises:
        ConfigError: neither.
    """
    found = local_or_hub(name, base or Path())
    return found if _on_hub(found) else str(config_folder(found))


def config_folder(source: str | Path) -> Path:
    """The folder with the config.json of an autoencoder: the given one or its `vae`, or that of a snapshot of the Hub.

    Of a repository on the Hub only the config is downloaded.

    Raises:
        ConfigError: there is no config, or the Hub cannot be reached.
        MissingDependency: the source is a Hub name, and huggingface_hub is not installed.
    """
    folder = download_from_hub(str(source), CONFIGS) if _on_hub(str(source)) else Path(source)
    for name in CONFIGS:
        if (folder / name).is_file():
            return (folder / name).parent
    raise ConfigError(
        f"{source}: contains no autoencoder (neither decoder.json nor config.json); give the folder of one of diffusers' "
        "autoencoders, or a Hub name as OWNER/NAME"
    )


def _on_hub(name: str) -> bool:
    return not Path(name).is_absolute() and local_or_hub(name, Path()) == name


def read_public_config(folder: str | Path) -> PublicVAEConfig:
    """The latents that the config.json of a folder describes.

    Raises:
        ConfigError: it cannot be read, is of another class, or has a key or a value that is not implemented.
    """
    where = str(Path(folder) / "config.json")
    config = read_json(where, "diffusers config", dict)
    if not isinstance(config, dict):
        raise ConfigError(f"{where}: expected a mapping, found {type(config).__name__}")
    kind = config.get("_class_name", "AutoencoderKL")
    if kind not in KINDS:
        raise ConfigError(f"{where}: _class_name: {kind!r:.60} is not implemented{suggestion(str(kind), KINDS)}")
    used = {key: value for key, value in config.items() if key not in IGNORED}
    names = KINDS[kind].__dataclass_fields__
    # None is the absence of a feature, and so is False.
    used = {key: value for key, value in used.items() if key in names or value not in (None, False)}
    keys = build(KINDS[kind], used, where)
    try:
        return keys.latents(kind)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
