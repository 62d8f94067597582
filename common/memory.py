"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path

import psutil

GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Files of a control group, of its versions 2 and 1: limit, use, and what of that is cached files
# that the system gives up when it must.
VERSIONS = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_memory() -> int:
    """Bytes: what the system has, or less where a container or a scheduler limits the process."""
    return min([psutil.virtual_memory().available, *_left_in_groups()])


def _left_in_groups() -> list[int]:
    """What each control group leaves that this process is in, if it has a limit."""
    found = [
        _left(group, *VERSIONS[controller])
        for controller, folder in _own_groups()
        for group in (folder, *folder.parents)
        if group.is_relative_to(GROUPS)
    ]
    return [left for left in found if left is not None]


def _own_groups() -> list[tuple[str, Path]]:
    """The folders of this process's groups; in a container they may be seen as the top."""
    try:
        lines = OWN_GROUPS.read_text("utf-8").splitlines()
    except OSError:  # not Linux
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for name in {"", "memory"} & {*controllers.split(",")}:
            found.append((name, GROUPS / name / path.lstrip("/")))
    return found


def _left(group: Path, limit: str, used: str, cached: str) -> int | None:
    try:
        most = (group / limit).read_text("utf-8").strip()
        if most == "max":
            return None
        lines = (group / "memory.stat").read_text("utf-8").splitlines()
        stat = dict(line.split() for line in lines)
        return int(most) - int((group / used).read_text("utf-8")) + int(stat.get(cached, 0))
    except (OSError, ValueError):
        return None
