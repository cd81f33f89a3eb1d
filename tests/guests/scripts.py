# SPDX-License-Identifier: BSD-2-Clause
"""Scripts that tests run inside the guest."""

__all__ = ["CHANGES", "ETHTOOL", "MANY_PAIRS", "RESETS"]

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

ETHTOOL = """
if [ "$(cut -c35 /sys/class/net/eth0/device/features)" = 1 ]; then TINY=24 ODD=100; else TINY=32 ODD=128; fi     # bit 34 is RING_PACKED
rings() { echo "STATE $1 $(ethtool --json -g eth0 | tr -d '\\n')"; }
coalescing() { echo "STATE $1 $(ethtool --json -c eth0 | tr -d '\\n')"; }
pairs() { echo "STATE $1 $(ethtool -l eth0 | sed -n 's/Combined:[^0-9]*//p' | tail -n 1)"; }
fetch() {
    wget -q -T 60 -O /tmp/$1 http://$PEER:$PORT$DOWNLOAD || exit 1
    [ $1 = first ] || cmp /tmp/first /tmp/$1 || exit 2
}
change() {      # what reads the setting back, the name of the step, what sets it; then traffic
    read_back=$1 name=$2
    shift 2
    ethtool "$@" || exit 3
    $read_back $name
    ping -c 2 -W 10 $PEER || exit 4
    fetch $name
}
fetch first
rings rings-at-first
coalescing coalescing-at-first
pairs pairs-at-first
ethtool -G eth0 rx 4 tx $TINY && rings tiny-rings && ping -c 2 -W 10 $PEER || exit 5
change rings rings -G eth0 rx 64 tx 32
# Linux wants powers of two for a split ring; it finds out when the queue is in reset, and brings it back. With IN_ORDER (bit 35) Linux 7 forgets
# to start that ring at its beginning: "id 0 is not a head!", on QEMU's own device too.
if [ $ODD = 128 ] && [ "$(cut -c36 /sys/class/net/eth0/device/features)" = 0 ]; then
    ethtool -G eth0 rx 100 && exit 11
    dmesg -c | grep 'resize rx fail'
    change rings refused -G eth0 tx 64
fi
change rings odd-rings -G eth0 rx $ODD tx $TINY
change pairs two-pairs -L eth0 combined 2
change pairs one-pair -L eth0 combined 1
change pairs four-pairs -L eth0 combined 4
change coalescing tx-coalescing -C eth0 tx-usecs 1000 tx-frames 64
change coalescing rx-coalescing -C eth0 rx-usecs 100 rx-frames 8
# A queue that was reset forgets its coalescing; Linux sets it again.
change rings rings-while-coalescing -G eth0 rx 256 tx 256
coalescing coalescing-after-rings
for queue in 0 1; do
    ethtool --per-queue eth0 queue_mask $((1 << queue)) --coalesce rx-usecs $((30 + 10 * queue)) rx-frames 3 || exit 6
done
echo "STATE queues $(ethtool --per-queue eth0 queue_mask 0x7 --show-coalesce | sed -n 's/rx-usecs:[^0-9]*//p' | tr '\\n' ' ')"
ping -c 2 -W 10 $PEER || exit 7
change coalescing adaptive -C eth0 adaptive-rx on
change coalescing at-once -C eth0 adaptive-rx off rx-usecs 0 rx-frames 0 tx-usecs 0 tx-frames 1
# Rings and channels change below a download. passt sometimes sends other bytes than before for the same sequence numbers when it repeats
# what was lost: what differs is told, for the test to compare with the frames that came in.
wget -q -T 60 -O /tmp/under-way http://$PEER:$PORT$DOWNLOAD &
for size in 32 $ODD 64 1024; do
    for count in 1 4; do
        ethtool -G eth0 rx $size tx $size && ethtool -L eth0 combined $count || exit 8
    done
done
wait $! || exit 9
cmp -l /tmp/first /tmp/under-way >/tmp/different
if [ -s /tmp/different ]; then
    begin=$(head -n 1 /tmp/different | awk '{ print $1 }')
    end=$(tail -n 1 /tmp/different | awk '{ print $1 }')
    tail -c +$begin /tmp/under-way | head -c $((end - begin + 1)) | base64 | sed "s/^/DIFFERENT $begin /"
fi
echo "STATE under-way $(wc -c </tmp/under-way)"
rings rings-at-last
pairs pairs-at-last
ping -c 2 -W 10 $PEER || exit 10
echo "STATE statistics $(ethtool -S eth0 | sed -n 's/^ *\\([a-z0-9_]*\\): /\\1=/p' | tr '\\n' ' ')"
before=$(cut -d' ' -f1 /proc/uptime)
fetch last
echo "UNVIRT: download $(wc -c </tmp/last) $(sha256sum /tmp/last | cut -d' ' -f1) $before $(cut -d' ' -f1 /proc/uptime)"
dmesg | grep -E 'virtio|eth0|NETDEV WATCHDOG|Call Trace|WARNING:|BUG:' | sed 's/^/DMESG /'
true
"""
"""Rings, channels and coalescing changed by ethtool; pings and a download after each change, and one that they are changed below."""

CHANGES = """
ip addr add $ADDRESS dev eth0
ping -c 3 -W 10 $PEER || exit 1
download() { wget -q -T 60 -O /tmp/$1 http://$PEER:$PORT/random || exit 2; }
download first
for round in 1 2 3; do
    download again &
    for size in 32 256 64 1024; do
        for count in 1 4; do
            ethtool -G eth0 rx $size tx $size && ethtool -L eth0 combined $count || exit 3
        done
    done
    wait $! || exit 4
    cmp /tmp/first /tmp/again || exit 5
done
echo "STATE sum $(sha256sum /tmp/first | cut -d' ' -f1)"
dmesg | grep -E 'virtio|eth0|NETDEV WATCHDOG|Call Trace|WARNING:|BUG:' | sed 's/^/DMESG /'
true
"""
"""Rings and channels changed below downloads from ``PEER``, which the one who runs it sets, as ``ADDRESS`` and ``PORT``."""

MANY_PAIRS = """
ethtool -L eth0 combined 255 || exit 1
ping -c 2 -W 10 $PEER || exit 2
# All that may be under way fits into the memory for received frames: nothing is lost that passt might repeat with other bytes.
echo 4096 8192 8192 >/proc/sys/net/ipv4/tcp_rmem
before=$(cut -d' ' -f1 /proc/uptime)
for flow in 1 2 3 4 5 6 7 8; do
    wget -q -T 60 -O /tmp/flow$flow http://$PEER:$PORT$DOWNLOAD &
done
wait
for flow in 2 3 4 5 6 7 8; do
    cmp /tmp/flow1 /tmp/flow$flow || exit 3
done
echo "UNVIRT: download $(wc -c </tmp/flow1) $(sha256sum /tmp/flow1 | cut -d' ' -f1) $before $(cut -d' ' -f1 /proc/uptime)"
echo "FILLED $(ethtool -S eth0 | grep -c 'rx[0-9][0-9]*_kicks: [^0]')"
for kind in input output; do
    calls=$(awk "/virtio0-$kind/ { calls = 0; for (i = 2; i <= 5; i++) calls += \\$i; if (calls) print \\$NF }" /proc/interrupts | wc -l)
    echo "CALLED $kind $calls"
done
ethtool -L eth0 combined 4 && ping -c 2 -W 10 $PEER || exit 4
"""
"""All of 255 queue pairs in use, and eight downloads at once; how many queues have buffers, and how many gave interrupts."""
