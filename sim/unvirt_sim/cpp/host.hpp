// SPDX-License-Identifier: BSD-2-Clause
// The host behind the link: reads that tear, writes that become visible late but in order, completions
// cut, delayed and reordered, faults. Time is in core cycles.
#pragma once
#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <string>

#include "memory.hpp"
#include "tlp.hpp"
#include "used.hpp"
#include "wire.hpp"

namespace unvirt {

struct Parameters {
    uint64_t seed = 1;
    uint32_t latency = 20, latency_spread = 20;   // of reads, cycles
    uint32_t posted_spread = 20;                  // of writes becoming visible
    uint32_t tear = 1;                            // every line of a read has its own time
    uint32_t cut = 0;                             // 0 as large as allowed, 1 at every RCB, 2 random
    uint32_t reorder = 1;
    uint32_t up_rate = 0, down_rate = 0;          // bytes per 1024 cycles, 0 without limit
    uint32_t flight = 2;
    uint32_t tx_stall = 0, rx_gap = 0;            // of 1024 cycles
    uint32_t mac_tx_stall = 0, mac_rx_gap = 0;    // of 1024 cycles
    uint32_t credits[6] = {64, 1024, 32, 32, 64, 1024};
    uint32_t infinite = 0;
    uint32_t drop = 0, unsupported = 0, abort = 0, poison = 0;  // faults of reads, of 65536
    uint32_t nonposted_depth = 16;
    uint32_t dllp_bytes = 8;                      // an Ack, or an UpdateFC of one kind, charged once per ...
    uint32_t dllp_interval = 43;                  // ... latency timer, which a received TLP (of that kind) starts
};

// One TLP or Ethernet frame that went by, for measurements.
enum Seen : uint32_t { kUpRead, kUpWrite, kUpCompletion, kUpMessage, kDownCompletion, kDownRead, kDownWrite,
                       kDownConfig, kFrameOut, kFrameIn };
struct Record { uint64_t first, last, address; uint32_t bytes, data, tag, kind; };

struct Message { uint64_t cycle, address; uint32_t data; };
struct Answer { uint64_t id, cycle; uint32_t status, data[2]; };

struct Counters {
    uint64_t up[4] = {0}, up_bytes[4] = {0};      // reads, writes, completions, messages
    uint64_t down[4] = {0}, down_bytes[4] = {0};  // completions, reads, writes, configuration
    uint64_t read_bytes = 0, write_bytes = 0, reads_in_flight = 0, most_reads_in_flight = 0;
};

// TLPs of the device that wait for the link or are on their way onto it, at most.
constexpr size_t kWaiting = 7;

class Host {
public:
    Parameters par;
    Memory memory;
    UsedCount used{memory};
    Counters count;
    std::deque<Message> messages;
    std::deque<Answer> answers;
    std::vector<std::string> violations;
    uint64_t cycle = 0;
    bool quiet = false;               // no DMA, no message may be seen
    bool expect_errors = false;       // accesses outside memory are answered, not complained about
    std::function<void(const char*, const Dws&)> trace;
    // Reads of these ranges are never answered.
    std::vector<std::pair<uint64_t, uint64_t>> mute;
    bool recording = false;
    std::vector<Record> records;

    explicit Host(const Parameters& p) : par(p), random_(p.seed) {
        for (int i = 0; i < 6; i++) limit_[i] = par.credits[i];
    }

    // --- what the host does ---
    void access(uint64_t id, bool config, bool write, uint64_t address, unsigned size,
                uint64_t value, unsigned function) {
        outgoing_.push_back({id, config, write, address, size, value, function, {}});
    }
    // A TLP as it stands; completions of a non-posted one are kept whole in `completions`.
    void inject(Dws dws, bool nonposted) {
        if (nonposted) injected_.insert(parse(dws).tag);
        outgoing_.push_back({0, false, !nonposted, 0, 0, 0, 0, std::move(dws)});
    }
    std::deque<Dws> completions;
    bool idle() const { return outgoing_.empty() && pending_.empty() && down_.empty(); }

    // --- the link, device to host ---
    bool up_ready() {
        if (up_wire_.waiting(cycle) >= kWaiting) return false;
        return !chance(par.tx_stall, 1024);
    }

    void up(const Dws& dws) {
        if (trace) trace("up", dws);
        Tlp tlp = parse(dws);
        unsigned bytes = dws.size() * 4 + 8;
        start_dllps(down_timers_, tlp, par.down_rate, down_wire_);
        uint64_t now = std::max(up_wire_.send(cycle, bytes, par.up_rate) + par.flight, up_arrival_);
        up_arrival_ = now;
        unsigned expected = tlp.header + (tlp.with_data ? tlp.length : 0);
        if (dws.size() != expected)
            complain("a TLP of %llu DWs says it has %llu", dws.size(), expected);
        take_credits(tlp);
        record(tlp, kUpRead);
        switch (tlp.kind) {
            case kMemoryWrite: write_arrives(tlp, now); note_up(1, bytes); break;
            case kMemoryRead: read_arrives(tlp, now); note_up(0, bytes); break;
            case kCompletion:
                if (injected_.count(tlp.tag)) completions.push_back(dws); else completion_arrives(tlp, now);
                note_up(2, bytes);
                break;
            case kMessage: note_up(3, bytes); message_arrives(tlp, now); break;
            default: complain("a TLP of unknown kind %llx", swap(dws[0]));
        }
    }

    // --- the link, host to device ---
    const Dws* down() const { return down_.empty() || down_.front().when > cycle ? nullptr : &down_.front().dws; }
    void down_done() {
        const Dws& dws = down_.front().dws;
        if (trace) trace("down", dws);
        unsigned bytes = dws.size() * 4 + 8;
        Tlp tlp = parse(dws);
        start_dllps(up_timers_, tlp, par.up_rate, up_wire_);
        record(tlp, kDownCompletion);
        int kind = tlp.kind == kCompletion ? 0 : tlp.kind == kMemoryRead ? 1 : tlp.kind == kMemoryWrite ? 2 : 3;
        count.down[kind]++;
        count.down_bytes[kind] += bytes;
        down_.pop_front();
    }
    void nonposted_freed() { if (nonposted_out_) nonposted_out_--; else complain("a non-posted credit came back that was not out"); }

    uint32_t limit(int kind) const { return limit_[kind] & (kind & 1 ? 0xfff : 0xff); }
    void block_credits(int kind, bool blocked) { blocked_[kind] = blocked; if (!blocked) { limit_[kind] += owed_[kind]; owed_[kind] = 0; } }
    bool intx = false;
    uint16_t requester_id() const { return 0x0100; }
    uint32_t max_payload = 128, max_read = 512, rcb = 64;
    bool bus_master = false, extended_tags = false, msix_enabled = false;

    void tick() {
        cycle++;
        while (!events_.empty() && events_.begin()->first <= cycle) {
            auto event = std::move(events_.begin()->second);
            events_.erase(events_.begin());
            event();
        }
        send_accesses();
    }

    void link_reset() {
        reads_.clear();
        generation_++;
        down_.clear();
        up_wire_ = down_wire_ = Wire();
        pending_.clear();
        nonposted_out_ = 0;
        for (int i = 0; i < 6; i++) { limit_[i] = par.credits[i]; consumed_[i] = 0; owed_[i] = 0; }
        intx = false;
    }

    template <typename... Args> void complain(const char* format, Args... args) {
        char text[256];
        std::snprintf(text, sizeof text, format, (unsigned long long)(args)...);
        if (violations.size() < 100)
            violations.push_back("cycle " + std::to_string(cycle) + ": " + text);
    }
    uint64_t next_random() { return random_(); }
    bool chance(uint32_t part, uint32_t of) { return part && random_() % of < part; }

private:
    struct Outgoing { uint64_t id; bool config, write; uint64_t address; unsigned size; uint64_t value; unsigned function; Dws whole; };
    struct Down { uint64_t when; Dws dws; };
    struct Pending { uint64_t id; unsigned dws, offset, size; };
    struct Read { uint64_t address; unsigned bytes, sent = 0; std::vector<uint8_t> data; uint16_t requester; bool poisoned; };

    std::mt19937_64 random_;
    std::multimap<uint64_t, std::function<void()>> events_;
    std::deque<Outgoing> outgoing_;
    std::deque<Down> down_;
    std::map<unsigned, Pending> pending_;
    std::set<unsigned> injected_;     // tags of injected requests; never given to others again
    std::map<unsigned, Read> reads_;
    unsigned next_tag_ = 0, nonposted_out_ = 0;
    uint64_t visible_ = 0, up_arrival_ = 0, down_order_ = 0;
    Wire up_wire_, down_wire_;
    uint64_t generation_ = 0;
    bool up_timers_[4] = {false}, down_timers_[4] = {false};   // run: of Acks, of credits for completions, posted and non-posted TLPs
    uint32_t limit_[6], consumed_[6] = {0}, owed_[6] = {0};
    bool blocked_[6] = {false};

    uint32_t spread(uint32_t range) { return range ? random_() % (range + 1) : 0; }
    void note_up(int kind, unsigned bytes) { count.up[kind]++; count.up_bytes[kind] += bytes; }
    bool muted(uint64_t address) const {
        for (const auto& range : mute)
            if (address - range.first < range.second) return true;
        return false;
    }
    // Acks and credits are gathered while their latency timer runs [PCIe 3.5.2.1, 2.6.1.2].
    void start_dllps(bool (&timers)[4], const Tlp& tlp, uint32_t rate, Wire& wire) {
        if (!rate) return;
        int kind = tlp.kind == kCompletion ? 1 : tlp.kind == kMemoryWrite || tlp.kind == kMessage ? 2 : 3;
        for (bool* running : {&timers[0], &timers[kind]}) {
            if (*running) continue;
            *running = true;
            at(cycle + par.dllp_interval, [this, running, rate, &wire] {
                *running = false;
                wire.occupy(cycle, par.dllp_bytes, rate);
            });
        }
    }
    void record(const Tlp& tlp, unsigned base) {
        if (!recording) return;
        unsigned what = tlp.kind == kMemoryRead ? 0 : tlp.kind == kMemoryWrite ? 1 : tlp.kind == kCompletion ? 2 : 3;
        if (base == kDownCompletion && what != 3) what = (what + 1) % 3;   // completions come first there
        bool completion = tlp.kind == kCompletion;
        unsigned bytes = completion ? tlp.byte_count : access_bytes(tlp);
        uint64_t address = completion ? tlp.length * 4 : tlp.address + first_offset(tlp.first_be);
        uint32_t data = tlp.with_data && tlp.length ? tlp.data[0] >> 8 * (completion ? 0 : first_offset(tlp.first_be)) : 0;
        records.push_back({cycle, cycle, address, bytes, data, tlp.tag, base + what});
    }
    void at(uint64_t when, std::function<void()> what) { events_.emplace(when, std::move(what)); }

    void take_credits(const Tlp& tlp) {
        int type = tlp.kind == kMemoryRead ? 1 : tlp.kind == kCompletion ? 2 : 0;
        uint32_t need[2] = {1, tlp.with_data ? (tlp.length + 3) / 4 : 0};
        for (int part = 0; part < 2; part++) {
            int kind = 2 * type + part;
            if (par.infinite >> kind & 1) continue;
            consumed_[kind] += need[part];
            if (int32_t(limit_[kind] - consumed_[kind]) < 0)
                complain("credits of kind %llu exceeded by %llu", kind, consumed_[kind] - limit_[kind]);
            uint32_t amount = need[part];
            at(cycle + 4 + spread(8), [this, kind, amount] {
                if (blocked_[kind]) owed_[kind] += amount; else limit_[kind] += amount;
            });
        }
    }

    void write_arrives(const Tlp& tlp, uint64_t now) {
        check_request(tlp, "write");
        if (tlp.length * 4 > max_payload) complain("a write of %llu bytes exceeds the largest payload", tlp.length * 4);
        uint64_t when = std::max(visible_, now + spread(par.posted_spread));
        visible_ = when;
        std::vector<uint32_t> data(tlp.data, tlp.data + tlp.length);
        uint64_t address = tlp.address;
        unsigned first = tlp.first_be, last = tlp.length == 1 ? tlp.first_be : tlp.last_be;
        count.write_bytes += access_bytes(tlp);
        at(when, [this, data, address, first, last] { commit(address, data, first, last); });
    }

    void commit(uint64_t address, const std::vector<uint32_t>& data, unsigned first, unsigned last) {
        for (size_t i = 0; i < data.size(); i++) {
            unsigned be = i == 0 ? first : i + 1 == data.size() ? last : 0xf;
            for (unsigned byte = 0; byte < 4; byte++) {
                if (!(be >> byte & 1)) continue;
                uint64_t where = address + 4 * i + byte;
                Region* region = memory.find(where, 1);
                if (region && region->window) {
                    if (byte == 0) messages.push_back({cycle, where, data[i]});
                    continue;
                }
                if (!region || !region->writable) {
                    if (!expect_errors) complain("a write to %llx, which the device was not given", where);
                    return;
                }
                region->data[where - region->address] = uint8_t(data[i] >> 8 * byte);
            }
        }
        used.written(address, data.size(), first, last);
    }

    void check_request(const Tlp& tlp, const char* what) {
        (void)what;
        if (quiet) complain("a memory request to %llx while the device must be quiet", tlp.address);
        if (!bus_master) complain("a memory request to %llx without bus mastering", tlp.address);
        if ((tlp.address & 0xfff) + tlp.length * 4 > 0x1000) complain("a request of %llu DWs at %llx crosses 4 KiB", tlp.length, tlp.address);
        if (tlp.header == 4 && !(tlp.address >> 32)) complain("a 4-DW header for address %llx below 4 GiB", tlp.address);
        if (tlp.length == 1 ? tlp.last_be != 0 : !tlp.first_be || !tlp.last_be)
            complain("byte enables %llx/%llx of a request of %llu DWs", tlp.first_be, tlp.last_be, tlp.length);
        if (tlp.requester != requester_id()) complain("requester id %llx", tlp.requester);
        if (tlp.traffic_class) complain("traffic class %llu", tlp.traffic_class);
    }

    void read_arrives(const Tlp& tlp, uint64_t now) {
        check_request(tlp, "read");
        if (tlp.length * 4 > max_read) complain("a read of %llu bytes exceeds the largest request", tlp.length * 4);
        if (tlp.tag >= 32 && !extended_tags) complain("tag %llu without extended tags", tlp.tag);
        if (reads_.count(tlp.tag)) complain("tag %llu is used while it is out", tlp.tag);
        Read read;
        read.bytes = access_bytes(tlp);
        read.address = tlp.address + first_offset(tlp.first_be);
        read.requester = tlp.requester;
        read.data.resize(read.bytes);
        read.poisoned = chance(par.poison, 65536);
        count.read_bytes += read.bytes;
        unsigned tag = tlp.tag;
        unsigned dws = tlp.length;
        reads_[tag] = read;
        count.reads_in_flight = reads_.size();
        count.most_reads_in_flight = std::max(count.most_reads_in_flight, count.reads_in_flight);
        if (chance(par.drop, 65536) || muted(read.address)) return;
        bool unsupported = chance(par.unsupported, 65536), abort = chance(par.abort, 65536);
        // A read never passes writes that were on the link before it.
        uint64_t start = std::max(now, visible_);
        uint64_t done = start + par.latency + spread(par.latency_spread);
        uint64_t generation = generation_;
        if (!par.reorder) { done = std::max(done, down_order_); down_order_ = done; }
        uint64_t address = read.address, end = address + read.bytes;
        Region* region = memory.find(address, read.bytes);
        if (!region || !region->readable) {
            if (!expect_errors && !unsupported && !abort)
                complain("a read of %llu bytes at %llx, which the device was not given", read.bytes, address);
            unsupported = true;
        }
        if (unsupported || abort) {
            at(done, [=, this] { if (generation == generation_) fail(tag, abort ? 4 : 1); });
            return;
        }
        for (uint64_t line = address & ~63ull; line < end; line += 64) {
            uint64_t from = std::max(line, address), to = std::min(line + 64, end);
            uint64_t when = par.tear ? start + spread(uint32_t(done - start)) : done;
            at(when, [=, this] { sample(generation, tag, from, to); });
        }
        at(done, [=, this] { if (generation == generation_) complete(tag, dws); });
    }

    void sample(uint64_t generation, unsigned tag, uint64_t from, uint64_t to) {
        if (generation != generation_) return;
        auto it = reads_.find(tag);
        if (it == reads_.end()) return;
        Region* region = memory.find(from, to - from);
        if (!region) return;
        std::memcpy(&it->second.data[from - it->second.address], region->data + (from - region->address), to - from);
    }

    void fail(unsigned tag, unsigned status) {
        Read& read = reads_[tag];
        queue_down(completion(status, read.requester, tag, read.bytes, read.address & 0x7f, false, 0));
        reads_.erase(tag);
    }

    // Send the data in pieces that end at read completion boundaries [PCIe 2.3.1.1].
    void complete(unsigned tag, unsigned) {
        auto it = reads_.find(tag);
        if (it == reads_.end()) return;
        Read& read = it->second;
        uint64_t address = read.address + read.sent;
        unsigned left = read.bytes - read.sent;
        unsigned most = max_payload - (address & 3);
        if (par.cut == 1) most = rcb - address % rcb;
        else {
            unsigned boundary = max_payload - address % max_payload;
            most = boundary;
            if (par.cut == 2) {
                unsigned steps = (boundary + rcb - 1) / rcb;
                unsigned first = rcb - address % rcb;
                most = first + rcb * (random_() % steps);
                if (most > boundary) most = boundary;
            }
        }
        unsigned bytes = std::min(left, most);
        unsigned offset = address & 3;
        unsigned dws = (offset + bytes + 3) / 4;
        Dws out = completion(0, read.requester, tag, left, address & 0x7f, read.poisoned, dws);
        size_t header = out.size();
        out.resize(header + dws);
        std::memset(&out[header], 0xEE, 4 * dws);
        std::memcpy(reinterpret_cast<uint8_t*>(&out[header]) + offset, &read.data[read.sent], bytes);
        read.sent += bytes;
        queue_down(std::move(out));
        if (read.sent == read.bytes) {
            reads_.erase(it);
            count.reads_in_flight = reads_.size();
        } else {
            uint64_t generation = generation_;
            uint64_t when = cycle + (par.reorder ? spread(par.latency_spread) : 0);
            auto next = [=, this] { if (generation == generation_) complete(tag, 0); };
            if (when <= cycle) next(); else at(when, next);
        }
    }

    // A TLP is seen by the device when all of it has come.
    void queue_down(Dws dws) {
        uint64_t sent = down_wire_.send(cycle, dws.size() * 4 + 8, par.down_rate);
        down_.push_back({sent + par.flight, std::move(dws)});
    }

    void send_accesses() {
        while (!outgoing_.empty()) {
            const Outgoing& out = outgoing_.front();
            bool posted = out.write && !out.config;
            if (!posted && nonposted_out_ >= par.nonposted_depth) return;
            if (!out.whole.empty()) {
                if (!posted) nonposted_out_++;
                queue_down(out.whole);
                outgoing_.pop_front();
                continue;
            }
            unsigned offset = out.address & 3, tag = next_tag_;
            unsigned dws = (offset + out.size + 3) / 4;
            unsigned be = ((1u << out.size) - 1) << offset;
            uint64_t value = out.value << 8 * offset;
            uint32_t words[2] = {uint32_t(value), uint32_t(value >> 32)};
            if (out.size == 0) be = 0, dws = 1;
            if (!posted) {
                while (injected_.count(tag)) tag = next_tag_ = (next_tag_ + 1) & 0xff;
                if (pending_.count(tag)) return;
                pending_[tag] = {out.id, dws, offset, out.size};
                next_tag_ = (next_tag_ + 1) & 0xff;
                nonposted_out_++;
            }
            queue_down(out.config
                ? config_request(out.write, out.function, out.address >> 2, be & 0xf, tag, words[0])
                : memory_request(out.write, out.address & ~3ull, dws, be & 0xf, dws > 1 ? be >> 4 & 0xf : 0, tag, words));
            outgoing_.pop_front();
        }
    }

    void completion_arrives(const Tlp& tlp, uint64_t now) {
        auto it = pending_.find(tlp.tag);
        if (it == pending_.end()) { complain("a completion for tag %llu, which is not out", tlp.tag); return; }
        Pending pending = it->second;
        pending_.erase(it);
        Answer answer{pending.id, 0, tlp.status, {0, 0}};
        if (tlp.status == 0 && tlp.with_data) {
            uint64_t value = tlp.data[0] | (tlp.length > 1 ? uint64_t(tlp.data[1]) << 32 : 0);
            value >>= 8 * pending.offset;
            answer.data[0] = uint32_t(value);
            answer.data[1] = uint32_t(value >> 32);
        }
        // A completion pushes the writes before it into memory.
        at(std::max(now, visible_), [this, answer]() mutable { answer.cycle = cycle; answers.push_back(answer); });
    }

    void message_arrives(const Tlp& tlp, uint64_t now) {
        if (tlp.code != 0x20 && tlp.code != 0x24) { complain("a message of code %llx", tlp.code); return; }
        bool level = tlp.code == 0x20;
        uint64_t when = std::max(visible_, now);
        visible_ = when;
        at(when, [this, level] { intx = level; });
    }
};

}  // namespace unvirt
