// SPDX-License-Identifier: BSD-2-Clause
// One direction of a link: what is sent takes its time, one after the other.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>

namespace unvirt {

class Wire {
public:
    // Send a TLP as soon as the wire is free; return the cycle by which all of it is on it. Rates are in bytes per 1024 cycles, 0: no limit.
    uint64_t send(uint64_t cycle, uint64_t bytes, uint32_t rate) {
        if (!rate) return cycle;
        occupy(cycle, bytes, rate);
        ends_.push_back((free_ + 1023) >> 10);
        return ends_.back();
    }

    // The same for what nobody waits for.
    void occupy(uint64_t cycle, uint64_t bytes, uint32_t rate) {
        free_ = std::max(free_, cycle << 10) + (bytes << 20) / rate;
    }

    // TLPs that are not yet all on the wire.
    size_t waiting(uint64_t cycle) {
        while (!ends_.empty() && ends_.front() <= cycle) ends_.pop_front();
        return ends_.size();
    }

private:
    uint64_t free_ = 0;               // in 1/1024 cycles
    std::deque<uint64_t> ends_;
};

}  // namespace unvirt
