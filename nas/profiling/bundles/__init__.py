"""Bundles: folders of compiled workloads that are measured on a device which is not attached to this machine."""

from nas.profiling.bundles.bundle import Bundle
from nas.profiling.bundles.collection import collect
from nas.profiling.bundles.creation import create
from nas.profiling.bundles.measurement import measure

__all__ = ["Bundle", "collect", "create", "measure"]
