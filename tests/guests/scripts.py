# SPDX-License-Identifier: BSD-2-Clause
"""Scripts that tests run inside the guest."""

__all__ = ["RESETS"]

RESETS = """
device=/sys/bus/pci/devices/0000:01:00.0
driver=/sys/bus/pci/drivers/virtio-pci
again() {
    sleep 1
    ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0 && ping -c 2 $PEER || exit 1
}
for method in flr bus; do
    echo 0000:01:00.0 >$driver/unbind
    echo $method >$device/reset_method || exit 2
    # After a bus reset QEMU's root port does not report its link as active, with QEMU's own devices neither: Linux says so, too late.
    echo 1 >$device/reset || [ $method = bus ] || exit 3
    echo 0000:01:00.0 >$driver/bind
    again
done
echo 1 >$device/remove
sleep 1
echo 1 >/sys/bus/pci/rescan
again
"""
"""Function-level reset, reset of the bus, removal and rescan; a ping after each."""
