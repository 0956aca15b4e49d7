"""Networks of a bundle, opened by several threads."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from reellama.models.bundle import Bundle
from reellama.models.networks import bundle_networks
from reellama.models.networks.bundle_networks import BundleNetworks
from reellama.models.networks.open_network import NetworkSource, OpenedNetwork


def test_opening_one_network_does_not_block_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, may_end = Event(), Event()
    opened: list[str] = []

    def slow(source: NetworkSource) -> OpenedNetwork:
        opened.append(source.name)
        if source.name == "projector":
            begun.set()
            assert may_end.wait(20)
        return OpenedNetwork(f"session of {source.name}")

    monkeypatch.setattr(bundle_networks, "open_network", slow)
    networks = BundleNetworks(Bundle.load().network_sources())
    with ThreadPoolExecutor(2) as others:
        loading = [others.submit(networks.session, "projector") for _ in range(2)]
        assert begun.wait(20)
        assert str(networks.session("tower")) == "session of tower"
        assert not any(each.done() for each in loading)
        may_end.set()
        assert [str(each.result()) for each in loading] == ["session of projector"] * 2
    assert sorted(opened) == ["projector", "tower"]
