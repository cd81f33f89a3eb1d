// SPDX-License-Identifier: BSD-2-Clause
// The far end of the Ethernet port: frames in and out of the AXI4-Stream side, with its rules checked.
#pragma once
#include <deque>
#include <vector>

#include "host.hpp"

namespace unvirt {

struct Arrival { std::vector<uint8_t> bytes; bool bad; };
struct Frame { uint64_t first, last; std::vector<uint8_t> bytes; bool aborted; };

class Mac {
public:
    std::deque<Arrival> to_device;
    std::deque<Frame> from_device;
    bool stalled = false, link_up = true;

    // One cycle of the transmit side as sampled at the clock edge.
    template <unsigned Lanes>
    void transmit(Host& host, bool valid, bool ready, const uint8_t* data, const uint8_t* keep,
                  bool last, bool user) {
        if (held_ && (!valid || last != held_last_ || std::memcmp(data, held_data_.data(), Lanes)))
            host.complain("mac_tx changed while it was not taken");
        held_ = valid && !ready;
        if (held_) { held_last_ = last; held_data_.assign(data, data + Lanes); }
        if (!valid && !frame_.empty()) host.complain("mac_tx has a gap in a frame of %llu bytes", frame_.size());
        if (!valid || !ready) return;
        if (frame_.empty()) first_ = host.cycle;
        unsigned used = 0;
        while (used < Lanes && (keep[used / 8] >> (used % 8) & 1)) used++;
        for (unsigned lane = used; lane < Lanes; lane++)
            if (keep[lane / 8] >> (lane % 8) & 1) host.complain("mac_tx_tkeep has a hole");
        if (!last && used != Lanes) host.complain("mac_tx_tkeep is not full before the last beat");
        frame_.insert(frame_.end(), data, data + used);
        if (last) {
            if (host.recording) host.records.push_back({first_, host.cycle, 0, uint32_t(frame_.size()), 0, user, kFrameOut});
            from_device.push_back({first_, host.cycle, std::move(frame_), user});
            frame_.clear();
        }
    }

    // A reset of the whole chip: frames under way, either way, are lost with the MAC they were in.
    void reset() {
        frame_.clear();
        held_ = false;
        if (sent_) { sent_ = 0; to_device.pop_front(); }
    }

    // The next beat for the device, if one is due.
    template <unsigned Lanes>
    bool receive(Host& host, uint8_t* data, uint8_t* keep, bool* last, bool* bad) {
        if (to_device.empty() || (sent_ == 0 && gap_)) { if (gap_) gap_--; return false; }
        if (sent_ == 0 && window_ && frames_ - host.used.total >= window_) return false;
        if (sent_ == 0 && period_ && 1024 * host.cycle < due_) return false;
        if (host.chance(host.par.mac_rx_gap, 1024)) return false;
        const auto& frame = to_device.front().bytes;
        unsigned left = frame.size() - sent_, used = left < Lanes ? left : Lanes;
        std::memset(keep, 0, (Lanes + 7) / 8);
        std::memset(data, 0, Lanes);
        std::memcpy(data, &frame[sent_], used);
        for (unsigned lane = 0; lane < used; lane++) keep[lane / 8] |= 1 << lane % 8;
        *last = used == left;
        *bad = *last && to_device.front().bad;
        if (sent_ == 0) {
            begun_ = host.cycle;
            // What was missed for want of frames is not made up for.
            due_ = std::max(due_ + period_, 1024 * host.cycle + period_ - std::min<uint64_t>(period_, 1023));
        }
        sent_ += used;
        if (*last) {
            if (host.recording) host.records.push_back({begun_, host.cycle, 0, uint32_t(frame.size()), 0, 0, kFrameIn});
            frames_++;
            sent_ = 0; to_device.pop_front(); gap_ = interframe; last_sent = host.cycle;
        }
        return true;
    }

    // Frames wait while `window` of those given since now are not used in the rings that the host watches (0: never), and begin
    // `period` / 1024 cycles apart.
    void pace(unsigned window, uint64_t period) {
        period_ = period;
        due_ = 0;
        window_ = window;
        frames_ = 0;
    }

    unsigned interframe = 0;          // idle cycles between frames
    uint64_t last_sent = 0;

private:
    unsigned window_ = 0;
    uint64_t frames_ = 0;
    uint64_t begun_ = 0, period_ = 0, due_ = 0;
    std::vector<uint8_t> frame_, held_data_;
    uint64_t first_ = 0;
    size_t sent_ = 0;
    unsigned gap_ = 0;
    bool held_ = false, held_last_ = false;
};

}  // namespace unvirt
