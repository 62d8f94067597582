"""Which host trains: sd-scripts where it is found, otherwise the standalone one."""

from __future__ import annotations

from ..config import TrainConfig
from .interface import Host
from .sd_scripts.locate import find_sd_scripts


def choose_host(config: TrainConfig) -> Host:
    """The host that flags, environment or installation name; nothing of the other is imported."""
    folder = find_sd_scripts(config.host, config.sd_scripts)
    if folder is None:
        from .standalone import Standalone

        return Standalone()
    from .sd_scripts.host import SdScripts

    return SdScripts(folder, config)
