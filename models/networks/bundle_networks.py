"""The networks of one bundle, each loaded when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from reellama.models.bundle_config import BundleError
from reellama.models.networks.network_sources import ClipPart, FeatureSource
from reellama.models.networks.open_network import OpenedNetwork, open_network
from reellama.models.train_extra import INSTALL

if TYPE_CHECKING:
    from reellama.models.networks.graph_session import GraphSession


class BundleNetworks:
    """The networks of a bundle by name. Threads may share one instance."""

    def __init__(self, sources: Mapping[str, ClipPart | FeatureSource]) -> None:
        self._sources = sources
        self._opened: dict[str, OpenedNetwork] = {}
        self._opening = {name: threading.Lock() for name in sources}

    @property
    def warning(self) -> str:
        """Which graphs could not be used, and why."""
        return "; ".join(network.warning for network in self._opened.values() if network.warning)

    def session(self, name: str) -> GraphSession | None:
        """A network in onnxruntime; None where torch must run the network.

        Raises BundleError for damaged weights, and if torch must run the network but is not
        installed.
        """
        with self._opening[name]:
            if name not in self._opened:
                self._opened[name] = open_network(self._sources[name])
            session: GraphSession | None = self._opened[name].session
        if session is None and find_spec("torch") is None:
            raise BundleError(self._torch_is_missing(name))
        return session

    def run(self, name: str, *arrays: np.ndarray) -> list[np.ndarray]:
        """The outputs of a network that takes features. Raises as `session`."""
        arrays = tuple(np.asarray(array, np.float32) for array in arrays)
        session, source = self.session(name), self._sources[name]
        if session is not None:
            return session.outputs(*arrays)
        assert isinstance(source, FeatureSource)
        return source.run_in_torch(*arrays)

    def _torch_is_missing(self, name: str) -> str:
        """The message for a network that needs torch: why, and how to get a graph for it."""
        reason = self._opened[name].warning or f"its {name} was not exported yet"
        return (
            f"{self._sources[name].folder}: {reason}; for that, once: {INSTALL}, then "
            "reellama export-graphs"
        )
