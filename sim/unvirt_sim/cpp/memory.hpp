// SPDX-License-Identifier: BSD-2-Clause
// Host memory as the device sees it: regions with permissions, guard bytes around what the model owns.
#pragma once
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace unvirt {

constexpr size_t kGuard = 64;
constexpr uint8_t kGuardByte = 0xA5;

struct Region {
    uint64_t address = 0, size = 0;
    uint8_t* data = nullptr;
    bool readable = true, writable = true, window = false;
    std::unique_ptr<uint8_t[]> owned;  // with guards before and after
};

class Memory {
public:
    // `data` is memory of the caller, or null to allocate zeroed memory with guards.
    void map(uint64_t address, uint64_t size, uint8_t* data, bool readable, bool writable) {
        unmap(address, size);
        Region region;
        region.address = address;
        region.size = size;
        region.readable = readable;
        region.writable = writable;
        if (!data) {
            region.owned.reset(new uint8_t[size + 2 * kGuard]);
            std::memset(region.owned.get(), kGuardByte, size + 2 * kGuard);
            data = region.owned.get() + kGuard;
            std::memset(data, 0, size);
        }
        region.data = data;
        regions_[address] = std::move(region);
    }

    void add_window(uint64_t address, uint64_t size) {
        Region region;
        region.address = address;
        region.size = size;
        region.readable = false;
        region.window = true;
        regions_[address] = std::move(region);
    }

    // A range operation: it may cover many regions or none.
    void unmap(uint64_t address, uint64_t size) {
        uint64_t last = address + (size ? size - 1 : 0);
        if (last < address) last = ~uint64_t(0);
        for (auto it = regions_.lower_bound(address); it != regions_.end() && it->first <= last;) {
            const Region& region = it->second;
            bool inside = region.address + region.size - 1 <= last;
            it = inside ? regions_.erase(it) : std::next(it);
        }
    }

    Region* find(uint64_t address, uint64_t size) {
        auto it = regions_.upper_bound(address);
        if (it == regions_.begin()) return nullptr;
        --it;
        Region& region = it->second;
        if (address - region.address >= region.size) return nullptr;
        if (size > region.size - (address - region.address)) return nullptr;
        return &region;
    }

    // The address of a region whose guard bytes were overwritten, or false.
    bool guard_broken(uint64_t* where) const {
        for (const auto& entry : regions_) {
            const Region& region = entry.second;
            if (!region.owned) continue;
            for (size_t i = 0; i < kGuard; i++) {
                if (region.owned[i] != kGuardByte ||
                    region.owned[kGuard + region.size + i] != kGuardByte) {
                    *where = region.address;
                    return true;
                }
            }
        }
        return false;
    }

private:
    std::map<uint64_t, Region> regions_;
};

}  // namespace unvirt
