// SPDX-License-Identifier: BSD-2-Clause
// What the device has used of the rings that somebody watches, counted as it becomes visible in memory.
#pragma once
#include <map>

#include "memory.hpp"

namespace unvirt {

class UsedCount {
public:
    uint64_t total = 0;

    explicit UsedCount(Memory& memory) : memory_(memory) {}

    // A split used ring counts by its index, a packed ring by the descriptors that are written.
    void watch(uint64_t address, uint64_t size, bool packed) {
        rings_[address] = {address + size, packed, uint16_t(packed ? 0 : index(address))};
    }
    void forget() { rings_.clear(); total = 0; }

    // A write of `dws` DWs has become visible.
    void written(uint64_t address, size_t dws, unsigned first_be, unsigned last_be) {
        if (rings_.empty()) return;
        auto it = rings_.upper_bound(address + 4 * dws - 1);
        if (it == rings_.begin()) return;
        --it;
        Ring& ring = it->second;
        if (address >= ring.end) return;
        if (!ring.packed) {
            uint16_t now = index(it->first);
            total += uint16_t(now - ring.index);
            ring.index = now;
            return;
        }
        // Flags end a descriptor; whoever writes them says that it is used.
        for (size_t i = 0; i < dws; i++) {
            unsigned be = i == 0 ? first_be : i + 1 == dws ? last_be : 0xf;
            total += be >> 2 == 3 && (address + 4 * i - it->first) % 16 == 12;
        }
    }

private:
    struct Ring { uint64_t end; bool packed; uint16_t index; };
    Memory& memory_;
    std::map<uint64_t, Ring> rings_;

    uint16_t index(uint64_t ring) {
        Region* region = memory_.find(ring, 4);
        if (!region || region->window) return 0;
        const uint8_t* place = region->data + (ring - region->address) + 2;
        return uint16_t(place[0] | place[1] << 8);
    }
};

}  // namespace unvirt
