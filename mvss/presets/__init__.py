"""Settings as data, and their reader."""

from __future__ import annotations

from os.path import expanduser
from pathlib import Path

import yaml

from mvss.presets.reader import available_presets, build_config, load_config, plain, suggest
from mvss.presets.settings import Settings
from mvss.runtime.errors import MvssError

__all__ = ["load_settings", "settings_from", "settings_text"]

FOLDER = Path(__file__).parent


def load_settings(name: str | Path | Settings) -> Settings:
    """Those of a preset of the library, by name, or of a file; settings as they are, looked at as if they were in one.

    Raises MvssError for a name that there is not, an unknown key, a value of another type or out of range.
    """
    if isinstance(name, Settings):
        return build_config(Settings, plain(name), "settings")
    if not isinstance(name, (str, Path)):
        raise MvssError(f"settings must be the name of a preset, a path or mvss.Settings, not {type(name).__name__}")
    path = Path(expanduser(name))
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in available_presets(FOLDER):
            raise MvssError(f"unknown preset {str(name)!r}{suggest(str(name), available_presets(FOLDER))}, or a .yaml file")
        path = FOLDER / f"{name}.yaml"
    return load_config(Settings, path)


def settings_text(settings: Settings) -> str:
    """As YAML."""
    return yaml.safe_dump(plain(settings), sort_keys=False, allow_unicode=True)


def settings_from(text: str) -> Settings:
    """What `settings_text` gave."""
    return build_config(Settings, yaml.safe_load(text), "settings")
