# SPDX-License-Identifier: Apache-2.0
"""TAP interfaces: their names, their sizes, and that nothing of them stays."""

import socket

import pytest
from driver.net.nets import net

from kmind.driver.net.namespace import Namespace
from kmind.driver.net.tap import VNET, Address, Tap
from kmind.errors import UsageError


def test_the_mask_of_an_address_is_its_bits() -> None:
    masks = [Address("10.0.0.1", bits).mask for bits in (0, 8, 24, 30, 32)]
    assert masks == ["0.0.0.0", "255.0.0.0", "255.255.255.0", "255.255.255.252", "255.255.255.255"]


def test_a_frame_has_room_for_what_the_kernel_may_hand_over() -> None:
    assert Tap("x", -1, offload=True, mtu=1500).frame_bytes >= VNET.itemsize + 14 + 65535
    assert Tap("x", -1, offload=False, mtu=1500).frame_bytes == VNET.itemsize + 14 + 8 + 1500


@pytest.mark.kernel
def test_a_name_that_is_taken_or_none_is_refused() -> None:
    with net() as pair:
        with pytest.raises(UsageError, match="taken"):
            Tap.open("left", pair.spaces[0])
        for name in ("", "sixteen-letters-", "a/b", "../x", "a b"):
            with pytest.raises(UsageError, match="no interface name"):
                Tap.open(name, pair.spaces[0])
        with pytest.raises(UsageError, match="MTU"):
            Tap.open("x", pair.spaces[0], mtu=10)
        assert pair.names(0) == ["lo", "left"]


@pytest.mark.kernel
def test_nothing_is_left_when_the_descriptors_are_closed() -> None:
    with Namespace.new() as space:
        with Tap.open("brief", space):
            assert space.call(lambda: socket.if_nametoindex("brief")) > 0
        names = space.call(lambda: [name for _, name in socket.if_nameindex()])
        assert names == ["lo"]
