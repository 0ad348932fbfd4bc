"""Memory limits of the control groups of this process, as containers and batch systems set them.

`/proc/self/cgroup` lists the groups: `0::/path` for version 2, `4:memory:/path` for version 1. A group's files are below the
mount point of its hierarchy, which `/proc/self/mountinfo` lists. The limits of all parent groups apply, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

FILES = {
    "cgroup2": ("memory.max", "memory.current"),
    "cgroup": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}
"""Version -> files with the limit and with the memory in use, in bytes."""
UNLIMITED = 1 << 60
"""Version 1 writes a limit above this, the largest number of pages, if there is no limit."""


def free_bytes(proc: Path = Path("/proc/self")) -> float | None:
    """Free memory under the tightest limit in bytes; None if there is no limit.

    Pages of files that the kernel can drop count as free.
    """
    free = [_free(folder, version) for version, folder in _folders(proc)]
    known = [size for size in free if size is not None]
    return min(known) if known else None


def _folders(proc: Path) -> Iterator[tuple[str, Path]]:
    """`(version, folder)` of the groups that may limit the memory of this process, the innermost first."""
    try:
        groups = dict(_groups((proc / "cgroup").read_text()))
        mounts = list(_mounts((proc / "mountinfo").read_text()))
    except OSError:
        return
    for version, root, mount_point in mounts:
        group = groups.get(version)
        if group is None:
            continue
        inside = PurePosixPath(group)
        # in a container the root of the mount may be its own group, which /proc names as the host does
        below = inside.relative_to(root) if inside.is_relative_to(root) else PurePosixPath()
        folder = mount_point / below
        while True:
            yield version, folder
            if folder == mount_point or mount_point not in folder.parents:
                break
            folder = folder.parent


def _groups(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            yield "cgroup2", group
        elif "memory" in controllers.split(","):
            yield "cgroup", group


def _mounts(text: str) -> Iterator[tuple[str, str, Path]]:
    """`(version, root, mount point)` of each mounted hierarchy that may limit memory."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and "memory" in kind[2].split(",")):
            yield kind[0], fields[3], Path(fields[4])


def _free(folder: Path, version: str) -> float | None:
    most, used = (_number(folder / name) for name in FILES[version])
    if most is None or used is None or most >= UNLIMITED:
        return None
    return max(0.0, most - used + _droppable(folder))


def _number(path: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):  # `max`: no limit
        return float(int(path.read_text()))
    return None


def _droppable(folder: Path) -> float:
    """Bytes of inactive file pages in a group."""
    with contextlib.suppress(OSError, ValueError):
        numbers = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return float(numbers.get("total_inactive_file", numbers.get("inactive_file", 0)))
    return 0.0
