# SPDX-License-Identifier: BSD-2-Clause
"""What runs inside the guest: the init script of the initramfs.

It prints lines ``UNVIRT: key value...`` on the console for :mod:`runner` to read; anything else is for people.

Settings (shell variables of ``/etc/settings``): ``NET`` is ``dhcp``, ``trydhcp`` (go on without an answer) or ``static``;
``ADDRESS`` (with prefix) and ``PEER`` for static; ``DOWNLOAD`` a URL path on the peer or empty; ``PORT`` of the peer's HTTP
server; ``PINGS``; ``WAIT`` seconds for the device; ``MODE`` is ``test``, ``shell`` or ``script``. ``BYTES``, instead of all about the network:
how many bytes to read from an entropy device.
"""

__all__ = ["INIT", "UDHCPC"]

INIT = r"""#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/bin
mount -t devtmpfs dev /dev 2>/dev/null || mdev -s
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
. /etc/settings

say() { echo "UNVIRT: $*"; }
uptime() { cut -d' ' -f1 /proc/uptime; }
ping_time() { sed -n 's/.*time=\([0-9.]*\) ms.*/\1/p' /tmp/ping; }
finish() {
    say "done $*"
    sync
    poweroff -f
    sleep 60
}
fail() {
    say "diagnosis"
    dmesg | tail -n 25
    grep . /sys/bus/pci/devices/*/vendor /sys/bus/virtio/devices/*/status 2>/dev/null
    finish "failed $*"
}

say "kernel $(uname -r)"
say "init $(uptime)"
for module in $MODULES; do
    insmod /lib/modules/$module || say "module $module did not load"
done

await() {       # a command that succeeds once the device is there, and what it waits for
    count=0
    while ! eval "$1"; do
        count=$((count + 1))
        [ $count -gt $((WAIT * 10)) ] && [ "$MODE" != shell ] && fail "no $2 after $WAIT s"
        [ $count -gt $((WAIT * 10)) ] && break
        sleep 0.1
    done
}

if [ -n "$BYTES" ]; then
    rng=/sys/class/misc/hw_random
    await 'grep -q virtio $rng/rng_current 2>/dev/null && [ -c /dev/hwrng ]' "entropy device"
    say "device $(uptime)"
    say "rng $(cat $rng/rng_current) $(cat /sys/bus/virtio/drivers/virtio_rng/virtio*/features)"
    if [ "$MODE" = test ]; then
        dd if=/dev/hwrng bs=$BYTES count=1 of=/tmp/entropy 2>/tmp/dd || fail "/dev/hwrng cannot be read"
        # On lines short enough that no other message comes between.
        hexdump -v -e '32/1 "%02x" "\n"' /tmp/entropy | while read -r line; do say "entropy $line"; done
        finish "ok"
    fi
else
    await '[ -e /sys/class/net/eth0 ]' "network device"
fi
device=/sys/class/net/eth0
if [ -e $device ]; then
    say "device $(uptime)"
    say "driver $(basename "$(readlink -f $device/device/driver)") $(cat $device/device/features 2>/dev/null)"
    say "queues $(ls -d $device/queues/rx-* | wc -l)"
    say "mac $(cat $device/address) mtu $(cat $device/mtu)"
    ip link set lo up
    ip link set eth0 up || fail "eth0 does not come up"
    case $NET in
    dhcp | trydhcp)
        if ! udhcpc -i eth0 -n -q -f -t 10 -T 2 -s /etc/udhcpc >/tmp/dhcp 2>&1; then
            cat /tmp/dhcp
            [ "$MODE$NET" = testdhcp ] && fail "no answer by DHCP"
        fi
        [ -e /tmp/router ] && [ -z "$PEER" ] && PEER=$(cat /tmp/router)
        ;;
    static)
        ip addr add $ADDRESS dev eth0
        ip route add default via $PEER 2>/dev/null
        ;;
    esac
    address=$(ip -4 -o addr show eth0 | tr -s ' ' | cut -d' ' -f4)
    say "address ${address:-none} $(uptime)"
fi
export PEER PORT DOWNLOAD

case $MODE in
shell)
    echo
    [ -n "$BYTES" ] && echo "The device is /dev/hwrng." || echo "The device is eth0, the peer is ${PEER:-nobody}."
    echo "'exit' or 'poweroff -f' ends the guest."
    setsid cttyhack sh
    finish "ok"
    ;;
script)
    say "script begins"
    sh /etc/script
    status=$?
    say "script $status"
    [ $status = 0 ] || finish "failed the script ended with status $status"
    finish "ok"
    ;;
esac

if [ -n "$PEER" ] && [ "$PINGS" -gt 0 ]; then
    sequence=0
    lost=0
    while [ $sequence -lt "$PINGS" ]; do
        if ping -c 1 -W 10 $PEER >/tmp/ping 2>&1; then
            say "ping $sequence $(ping_time) $(uptime)"
        else
            lost=$((lost + 1))
            say "ping $sequence lost $(uptime)"
        fi
        sequence=$((sequence + 1))
    done
    [ $lost = "$PINGS" ] && fail "no ping was answered"
    if ping -c 1 -W 10 -s 1400 $PEER >/tmp/ping 2>&1; then
        say "bigping $(ping_time)"
    else
        say "bigping lost"
    fi
fi

if [ -z "$PEER" ]; then
    # Nobody is there to answer; the requests still go out, and something may come in.
    arping -c 3 -w 5 -I eth0 10.0.2.99 >/dev/null 2>&1
fi

if [ -n "$DOWNLOAD" ]; then
    before=$(uptime)
    wget -q -T 120 -O /tmp/file http://$PEER:$PORT$DOWNLOAD || fail "the download failed"
    say "download $(wc -c </tmp/file) $(sha256sum /tmp/file | cut -d' ' -f1) $before $(uptime)"
fi
# A closing connection sends a moment longer; more so after segments that were sent twice, as on a busy computer.
packets=
tries=0
while [ $tries -lt 20 ]; do
    before=$packets
    packets="$(cat $device/statistics/rx_packets $device/statistics/tx_packets 2>/dev/null)"
    [ "$packets" = "$before" ] && break
    sleep 0.2
    tries=$((tries + 1))
done
for counter in rx_packets rx_bytes rx_errors tx_packets tx_bytes tx_errors; do
    set -- "$@" $counter=$(cat $device/statistics/$counter 2>/dev/null)
done
say "statistics $*"
finish "ok"
"""

UDHCPC = r"""#!/bin/sh
case $1 in
bound|renew)
    ip addr flush dev $interface
    ip addr add $ip/${mask:-24} dev $interface
    for gateway in $router; do
        ip route add default via $gateway dev $interface
        echo $gateway >/tmp/router
        break
    done
    for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
    ;;
deconfig)
    ip addr flush dev $interface
    ;;
esac
"""
