// SPDX-License-Identifier: BSD-2-Clause
// TLPs as DWs with the first byte on the wire lowest, and what their headers say [PCIe 2.2].
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace unvirt {

using Dws = std::vector<uint32_t>;

inline uint32_t swap(uint32_t dw) { return __builtin_bswap32(dw); }

// DWs of the header and of the payload, as its first DW says.
inline size_t header_dws(uint32_t first) { return swap(first) >> 29 & 1 ? 4 : 3; }
inline size_t header_dws(const Dws& dws) { return header_dws(dws[0]); }
inline size_t payload_dws(uint32_t first) {
    const uint32_t dw = swap(first);
    if (!(dw >> 30 & 1)) return 0;
    return dw & 0x3ff ? dw & 0x3ff : 1024;
}

enum Kind { kMemoryRead, kMemoryWrite, kConfigRead, kConfigWrite, kCompletion, kMessage, kOther };

struct Tlp {
    Kind kind = kOther;
    unsigned header = 3;          // DWs
    unsigned length = 0;          // DWs of data asked for or carried
    bool with_data = false, poisoned = false, digest = false;
    unsigned traffic_class = 0;
    unsigned tag = 0, first_be = 0, last_be = 0, status = 0, byte_count = 0, lower = 0, code = 0;
    uint16_t requester = 0, completer = 0;
    uint64_t address = 0;
    const uint32_t* data = nullptr;
};

inline Tlp parse(const Dws& dws) {
    Tlp tlp;
    uint32_t h0 = swap(dws[0]), h1 = dws.size() > 1 ? swap(dws[1]) : 0;
    uint32_t h2 = dws.size() > 2 ? swap(dws[2]) : 0, h3 = dws.size() > 3 ? swap(dws[3]) : 0;
    unsigned fmt = h0 >> 29, type = (h0 >> 24) & 0x1f;
    tlp.header = fmt & 1 ? 4 : 3;
    tlp.with_data = fmt & 2;
    tlp.length = h0 & 0x3ff ? h0 & 0x3ff : 1024;
    tlp.poisoned = h0 >> 14 & 1;
    tlp.digest = h0 >> 15 & 1;
    tlp.traffic_class = h0 >> 20 & 7;
    unsigned high_tag = (h0 >> 23 & 1) << 9 | (h0 >> 19 & 1) << 8;
    if (type == 0) {
        tlp.kind = tlp.with_data ? kMemoryWrite : kMemoryRead;
        tlp.address = fmt & 1 ? uint64_t(h2) << 32 | (h3 & ~3u) : h2 & ~3u;
    } else if (type == 4) {
        tlp.kind = tlp.with_data ? kConfigWrite : kConfigRead;
    } else if (type == 10) {
        tlp.kind = kCompletion;
        tlp.completer = h1 >> 16;
        tlp.status = h1 >> 13 & 7;
        tlp.byte_count = h1 & 0xfff ? h1 & 0xfff : 4096;
        tlp.requester = h2 >> 16;
        tlp.tag = (h2 >> 8 & 0xff) | high_tag;
        tlp.lower = h2 & 0x7f;
    } else if (type >> 3 == 2) {
        tlp.kind = kMessage;
        tlp.code = h1 & 0xff;
    }
    if (tlp.kind != kCompletion) {
        tlp.requester = h1 >> 16;
        tlp.tag = (h1 >> 8 & 0xff) | high_tag;
        tlp.last_be = h1 >> 4 & 0xf;
        tlp.first_be = h1 & 0xf;
    }
    tlp.data = dws.data() + tlp.header;
    return tlp;
}

// Bytes of an access and the offset of the first one, from the byte enables [PCIe table 2-39].
inline unsigned first_offset(unsigned be) { return be & 1 ? 0 : be & 2 ? 1 : be & 4 ? 2 : be & 8 ? 3 : 0; }
inline unsigned last_missing(unsigned be) { return be & 8 ? 0 : be & 4 ? 1 : be & 2 ? 2 : 3; }

inline unsigned access_bytes(const Tlp& tlp) {
    if (tlp.length == 1) {
        if (!tlp.first_be) return 1;
        return 4 - first_offset(tlp.first_be) - last_missing(tlp.first_be);
    }
    return tlp.length * 4 - first_offset(tlp.first_be) - last_missing(tlp.last_be);
}

inline Dws memory_request(bool write, uint64_t address, unsigned dws, unsigned first_be,
                          unsigned last_be, unsigned tag, const uint32_t* data) {
    bool is_long = address >> 32;
    unsigned fmt = (is_long ? 1 : 0) | (write ? 2 : 0);
    Dws out{swap(fmt << 29 | (dws & 0x3ff)), swap(tag << 8 | last_be << 4 | first_be)};
    if (is_long) out.push_back(swap(uint32_t(address >> 32)));
    out.push_back(swap(uint32_t(address) & ~3u));
    if (write) out.insert(out.end(), data, data + dws);
    return out;
}

inline Dws config_request(bool write, unsigned function, unsigned dw, unsigned be, unsigned tag,
                          uint32_t data) {
    Dws out{swap((write ? 2u : 0u) << 29 | 4u << 24 | 1), swap(tag << 8 | be),
            swap(1u << 24 | function << 16 | dw << 2)};
    if (write) out.push_back(data);
    return out;
}

inline Dws completion(unsigned status, uint16_t requester, unsigned tag, unsigned byte_count,
                      unsigned lower, bool poisoned, unsigned dws) {
    bool data = dws;
    Dws out{swap((data ? 2u : 0u) << 29 | 10u << 24 | (tag >> 9 & 1) << 23 | (tag >> 8 & 1) << 19 |
                 (poisoned ? 1u : 0u) << 14 | (dws & 0x3ff)),
            swap(status << 13 | (byte_count & 0xfff)),
            swap(uint32_t(requester) << 16 | (tag & 0xff) << 8 | lower)};
    return out;
}

}  // namespace unvirt
