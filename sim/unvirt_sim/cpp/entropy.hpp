// SPDX-License-Identifier: BSD-2-Clause
// The source of entropy of an entropy device: the words of a known sequence (unvirt_sim/entropy.py has the same), never twice.
#pragma once
#include "host.hpp"

namespace unvirt {

class EntropySource {
public:
    uint64_t bytes_taken = 0;

    explicit EntropySource(uint64_t seed) : seed_(seed) {}

    // The next piece for the device, if one is due; once shown it stays until it is taken.
    bool offer(Host& host, uint32_t* piece) {
        shown_ = shown_ || !host.chance(host.par.mac_rx_gap, 1024);
        *piece = uint32_t(word(bytes_taken / 8) >> 8 * (bytes_taken % 8));
        return shown_;
    }
    void taken() { bytes_taken += 4; shown_ = false; }

private:
    // SplitMix64, which reaches any word of its sequence at once.
    uint64_t word(uint64_t number) const {
        uint64_t z = seed_ + (number + 1) * 0x9e3779b97f4a7c15;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        return z ^ z >> 31;
    }
    uint64_t seed_;
    bool shown_ = false;
};

}  // namespace unvirt
