// SPDX-License-Identifier: BSD-2-Clause
// The device between the host model and the MAC, clocked until something happens; C ABI for ctypes.
// The device is the Verilated one or, with UNVIRT_PINS, a set of pins that another simulator moves. With UNVIRT_ENTROPY it is an entropy
// device, with a source of entropy where the MAC would be.
#include <cstdio>
#include <cstdlib>

#ifdef UNVIRT_PINS
#include "pins.hpp"
#else
#include <verilated.h>

#include "Vunvirt.h"
#ifdef UNVIRT_WAVES
#include <verilated_vcd_c.h>
#endif
#endif
#include "entropy.hpp"
#include "mac.hpp"

#ifndef UNVIRT_WIDTH
#error "define UNVIRT_WIDTH, the data width in bits"
#endif

using namespace unvirt;

#ifdef UNVIRT_PINS
using Device = Pins<UNVIRT_WIDTH>;
#else
using Device = Vunvirt;
double sc_time_stamp() { return 0; }
#endif

namespace {

constexpr unsigned kLanes = UNVIRT_WIDTH / 8, kDws = UNVIRT_WIDTH / 32;

enum Event { kAnswer = 1, kMessageEvent = 2, kFrame = 4, kIntx = 8, kViolation = 16 };

struct Sim {
#ifndef UNVIRT_PINS
    VerilatedContext context;
#endif
    Device dut;
    Host host;
    Mac mac;                                      // idle beside an entropy device, as the source is beside a MAC
    EntropySource entropy;
    Dws incoming;
    size_t down_beat = 0;
    bool down_shown = false, tx_held = false, mac_ready = false, last_intx = false, stalled_up = false;
    bool resetting = false, cut_off = false;      // by a reset of the link; the rest of a TLP after it
    bool taken = false, freed = false, whole = false;
    uint32_t held[kDws + 5] = {0};                // tx_tlp in the cycle before: header, data, first and last
    size_t outgoing_left = 0;                     // DWs of payload of the TLP under way that have not come
    uint32_t feature_mask[3] = {0};
    FILE* trace = nullptr;
    FILE* ports = nullptr;
    uint64_t stats[3] = {0};

#ifdef UNVIRT_PINS
    Sim(const Parameters& parameters, int) : dut{}, host(parameters), entropy(parameters.seed) { dut.link_up = 1; }
#else
    Sim(const Parameters& parameters, int random_init)
        : dut(configure(context, parameters, random_init)), host(parameters), entropy(parameters.seed) {
#ifdef UNVIRT_WAVES
        context.traceEverOn(true);
#endif
        dut.link_up = 1;
        dut.hot_reset = 0;
#ifndef UNVIRT_ENTROPY
        dut.mac_link_up = 1;
#endif
        std::memset(&dut.feature_mask, 0, sizeof feature_mask);
        mutate(0);
    }
#endif
    ~Sim() {
#ifndef UNVIRT_PINS
        dut.final();
#endif
        if (trace) std::fclose(trace);
        if (ports) std::fclose(ports);
#ifdef UNVIRT_WAVES
        if (waves) waves->close();
#endif
    }

#ifdef UNVIRT_WAVES
    std::unique_ptr<VerilatedVcdC> waves;
    uint64_t waves_from = 0, waves_to = 0;
#endif
    // Waveforms of the cycles from `from` to `to`, if the library was built for it.
    bool record(const char* path, uint64_t from, uint64_t to) {
#ifdef UNVIRT_WAVES
        waves.reset(new VerilatedVcdC);
        dut.trace(waves.get(), 99);
        waves->open(path);
        waves_from = from;
        waves_to = to;
        return true;
#else
        (void)path, (void)from, (void)to;
        return false;
#endif
    }

#ifndef UNVIRT_PINS
    static VerilatedContext* configure(VerilatedContext& context, const Parameters& parameters, int random_init) {
        context.randReset(random_init);
        context.randSeed(int(parameters.seed & 0x7fffffff) | 1);
        return &context;
    }

    void clock() {
        dut.clk = 0;
        dut.eval();
        note_infected();
        dut.clk = 1;
        dut.eval();
    }

    void power_on() {
        dut.rst = 1;
        for (int i = 0; i < 8; i++) clock();
        dut.rst = 0;
    }

    // Which mutants would have differed from the original by now: bits, lowest first.
    std::vector<uint32_t> infected;
    void note_infected() {
#ifdef UNVIRT_MUTANTS
        infected.resize(sizeof dut.infected / 4);
        for (size_t word = 0; word < infected.size(); word++) infected[word] |= dut.infected[word];
#endif
    }

    // Become a mutant, from power-on; false if the library has none.
    bool mutate(uint32_t number) {
#ifdef UNVIRT_MUTANTS
        dut.mutsel = number;
        const bool there = true;
#else
        const bool there = number == 0;
#endif
        power_on();
        return there;
    }

    void cycle() {
        drive();
        dut.clk = 0;
        dut.eval();
        sample();
        note_infected();
        dut.clk = 1;
        dut.eval();
        context.timeInc(1);
        advance();
    }
#endif

    // Inputs of this cycle.
    void drive() {
        Parameters& par = host.par;
        const Dws* down = host.down();
        if (down && !down_shown) {
            down_shown = !host.chance(par.rx_gap, 1024);
        }
        const bool valid = down && down_shown;
        dut.rx_tlp_valid = valid;
        if (valid) {
            const size_t size = header_dws(*down), at = size + down_beat * kDws, left = down->size() - at;
            uint32_t header[4] = {0}, words[kDws] = {0};
            std::memcpy(header, down->data(), 4 * size);
            std::memcpy(words, down->data() + at, 4 * std::min<size_t>(left, kDws));
            std::memcpy(&dut.rx_tlp_header, header, sizeof header);
            std::memcpy(&dut.rx_tlp_data, words, sizeof words);
            dut.rx_tlp_first = down_beat == 0;
            dut.rx_tlp_last = left <= kDws;
        }
        stalled_up = !host.up_ready();
        dut.tx_tlp_ready = !stalled_up;
        dut.fc_ph = host.limit(0); dut.fc_pd = host.limit(1);
        dut.fc_nph = host.limit(2); dut.fc_npd = host.limit(3);
        dut.fc_cplh = host.limit(4); dut.fc_cpld = host.limit(5);
        dut.fc_infinite = par.infinite;
        std::memcpy(&dut.feature_mask, feature_mask, sizeof feature_mask);
        drive_far();
    }

#ifdef UNVIRT_ENTROPY
    void drive_far() {
        uint32_t piece;
        dut.entropy_tvalid = entropy.offer(host, &piece);
        dut.entropy_tdata = piece;
    }
    void sample_far() {
        if (dut.entropy_tvalid && dut.entropy_tready) entropy.taken();
    }
#else
    // Inputs from the MAC.
    void drive_far() {
        Parameters& par = host.par;
        dut.mac_link_up = mac.link_up;
        mac_ready = !mac.stalled && !host.chance(par.mac_tx_stall, 1024);
        dut.mac_tx_tready = mac_ready;
        uint8_t data[kLanes], keep[(kLanes + 7) / 8];
        bool last = false, bad = false;
        bool arriving = !dut.rst && mac.receive<kLanes>(host, data, keep, &last, &bad);
        dut.mac_rx_tvalid = arriving;
        if (arriving) {
            std::memcpy(&dut.mac_rx_tdata, data, kLanes);
            std::memset(&dut.mac_rx_tkeep, 0, sizeof dut.mac_rx_tkeep);
            std::memcpy(&dut.mac_rx_tkeep, keep, sizeof keep);
            dut.mac_rx_tlast = last;
            dut.mac_rx_tuser = bad;
        }
    }

    // What the edge will see of the MAC's side.
    void sample_far() {
        if (dut.rst)
            mac.reset();
        else
            mac.transmit<kLanes>(host, dut.mac_tx_tvalid, mac_ready,
                                 reinterpret_cast<const uint8_t*>(&dut.mac_tx_tdata),
                                 reinterpret_cast<const uint8_t*>(&dut.mac_tx_tkeep),
                                 dut.mac_tx_tlast, dut.mac_tx_tuser);
        stats[0] += dut.stat_rx_dropped; stats[1] += dut.stat_tx_dropped;
    }
#endif

    // What the edge will see.
    void sample() {
        taken = dut.rx_tlp_valid && dut.rx_tlp_ready;
        freed = dut.rx_nonposted_freed;
        bool sent = dut.tx_tlp_valid && dut.tx_tlp_ready;
        if (resetting) tx_held = false;
        check_stream();
        // What a reset of the link cut through is gone, down to its last beat.
        if (sent && cut_off) {
            if (dut.tx_tlp_first && !resetting) cut_off = false; else sent = false;
        }
        if (sent) {
            if (dut.tx_tlp_first != incoming.empty()) host.complain("tx_tlp_first is wrong");
            const unsigned used = shown_dws();
            if (incoming.empty()) {
                const uint32_t* header = shown_header();
                incoming.assign(header, header + header_dws(header[0]));
            }
            uint32_t words[kDws];
            std::memcpy(words, &dut.tx_tlp_data, sizeof words);
            incoming.insert(incoming.end(), words, words + used);
            outgoing_left = shown_left() - used;
            if (dut.tx_tlp_last != !outgoing_left) host.complain("tx_tlp_last does not fit the length in the header");
        }
        whole = sent && dut.tx_tlp_last;
        if (ports) record_ports();
        sample_far();
        stats[2] += dut.stat_unsupported;

#ifdef UNVIRT_WAVES
        if (waves && host.cycle >= waves_from && host.cycle <= waves_to) waves->dump(host.cycle);
#endif
    }

    // After the edge.
    void advance() {
        if (whole) { host.up(incoming); incoming.clear(); }
        if (freed) host.nonposted_freed();
        if (taken) {
            down_shown = false;
            down_beat++;
            if (header_dws(*host.down()) + down_beat * kDws >= host.down()->size()) { down_beat = 0; host.down_done(); }
        }
        host.tick();
    }

    // Every port as the edge sees it, in the order of the port list (flat_ports of hdl/unvirt/verilog.py), clock left out.
    void record_ports() {
        auto put = [this](auto&... port) { (std::fwrite(&port, sizeof port, 1, ports), ...); };
        put(dut.rst, dut.rx_tlp_valid, dut.rx_tlp_ready, dut.tx_tlp_valid, dut.tx_tlp_ready);
        put(dut.rx_tlp_header, dut.rx_tlp_data, dut.rx_tlp_first, dut.rx_tlp_last);
        put(dut.tx_tlp_header, dut.tx_tlp_data, dut.tx_tlp_first, dut.tx_tlp_last);
        put(dut.fc_ph, dut.fc_pd, dut.fc_nph, dut.fc_npd, dut.fc_cplh, dut.fc_cpld, dut.fc_infinite);
        put(dut.rx_nonposted_freed, dut.link_up, dut.hot_reset);
#ifdef UNVIRT_ENTROPY
        put(dut.entropy_tvalid, dut.entropy_tready, dut.entropy_tdata, dut.feature_mask, dut.stat_unsupported);
#else
        put(dut.mac_tx_tvalid, dut.mac_tx_tready, dut.mac_rx_tvalid);
        put(dut.mac_tx_tdata, dut.mac_tx_tkeep, dut.mac_tx_tlast, dut.mac_tx_tuser);
        put(dut.mac_rx_tdata, dut.mac_rx_tkeep, dut.mac_rx_tlast, dut.mac_rx_tuser);
        put(dut.mac_link_up, dut.feature_mask, dut.stat_rx_dropped, dut.stat_tx_dropped, dut.stat_unsupported);
#endif
    }

    const uint32_t* shown_header() const { return reinterpret_cast<const uint32_t*>(&dut.tx_tlp_header); }

    // DWs of payload from the beat on show on, and those in it.
    size_t shown_left() const { return dut.tx_tlp_first ? payload_dws(shown_header()[0]) : outgoing_left; }
    unsigned shown_dws() const { return std::min<size_t>(shown_left(), kDws); }

    void check_stream() {
        uint32_t now[kDws + 5] = {0};
        // What is neither header nor payload means nothing and may change.
        if (dut.tx_tlp_valid) {
            if (dut.tx_tlp_first) std::memcpy(now, shown_header(), 4 * header_dws(shown_header()[0]));
            std::memcpy(now + 4, &dut.tx_tlp_data, 4 * shown_dws());
            now[kDws + 4] = dut.tx_tlp_first | dut.tx_tlp_last << 1;
        }
        if (tx_held && (!dut.tx_tlp_valid || std::memcmp(now, held, sizeof now)))
            host.complain("tx_tlp changed while it was not taken");
        tx_held = dut.tx_tlp_valid && !dut.tx_tlp_ready;
        std::memcpy(held, now, sizeof now);
    }

    uint32_t events() {
        uint32_t out = 0;
        if (!host.answers.empty()) out |= kAnswer;
        if (!host.messages.empty()) out |= kMessageEvent;
        if (!mac.from_device.empty()) out |= kFrame;
        if (host.intx != last_intx) { out |= kIntx; last_intx = host.intx; }
        if (!host.violations.empty()) out |= kViolation;
        return out;
    }
};

}  // namespace

extern "C" {

Sim* unvirt_new(const Parameters* parameters, int random_init) { return new Sim(*parameters, random_init); }
void unvirt_free(Sim* sim) { delete sim; }
Parameters* unvirt_parameters(Sim* sim) { return &sim->host.par; }
uint64_t unvirt_cycle(Sim* sim) { return sim->host.cycle; }

#ifdef UNVIRT_PINS
// The simulator outside does for each cycle: begin, put inputs to the device, settle, take outputs from it, end, clock edge.
Device* unvirt_pins(Sim* sim) { return &sim->dut; }
void unvirt_begin(Sim* sim) { sim->drive(); }
void unvirt_end(Sim* sim) { sim->sample(); sim->advance(); }
uint32_t unvirt_events(Sim* sim) { return sim->events(); }
#else
// Clock for at most `cycles`; return the events that were looked for as soon as one is there.
uint32_t unvirt_run(Sim* sim, uint64_t cycles, uint32_t until) {
    uint32_t seen = sim->events();
    while (cycles-- && !(seen & until)) {
        sim->cycle();
        seen |= sim->events();
    }
    return seen;
}
// How often each bit has toggled, in the format of Verilator; false if the library does not count.
int unvirt_write_coverage(Sim* sim, const char* path) {
#if VM_COVERAGE
    sim->context.coveragep()->write(path);
    return true;
#else
    (void)sim, (void)path;
    return false;
#endif
}
int unvirt_mutant(Sim* sim, uint32_t number) { return sim->mutate(number); }
uint32_t unvirt_infected(Sim* sim, const uint32_t** words) {
    *words = sim->infected.data();
    return sim->infected.size();
}
#endif

void unvirt_access(Sim* sim, uint64_t id, int config, int write, uint64_t address, uint32_t size,
                   uint64_t value, uint32_t function) {
    sim->host.access(id, config, write, address, size, value, function);
}
void unvirt_inject(Sim* sim, const uint32_t* dws, uint32_t count, int nonposted) {
    sim->host.inject(Dws(dws, dws + count), nonposted);
}
int unvirt_completion(Sim* sim, uint32_t* dws, uint32_t room) {
    if (sim->host.completions.empty()) return -1;
    Dws& front = sim->host.completions.front();
    uint32_t size = std::min<size_t>(room, front.size());
    std::memcpy(dws, front.data(), 4 * size);
    sim->host.completions.pop_front();
    return int(size);
}
int unvirt_answer(Sim* sim, Answer* out) {
    if (sim->host.answers.empty()) return 0;
    *out = sim->host.answers.front();
    sim->host.answers.pop_front();
    return 1;
}
int unvirt_message(Sim* sim, Message* out) {
    if (sim->host.messages.empty()) return 0;
    *out = sim->host.messages.front();
    sim->host.messages.pop_front();
    return 1;
}
void unvirt_map(Sim* sim, uint64_t address, uint64_t size, uint8_t* data, int readable, int writable) {
    sim->host.memory.map(address, size, data, readable, writable);
}
void unvirt_window(Sim* sim, uint64_t address, uint64_t size) { sim->host.memory.add_window(address, size); }
void unvirt_unmap(Sim* sim, uint64_t address, uint64_t size) { sim->host.memory.unmap(address, size); }
int unvirt_copy(Sim* sim, uint64_t address, uint64_t size, uint8_t* data, int write) {
    Region* region = sim->host.memory.find(address, size);
    if (!region || region->window) return 0;
    uint8_t* place = region->data + (address - region->address);
    if (write) std::memcpy(place, data, size); else std::memcpy(data, place, size);
    return 1;
}
int unvirt_guard(Sim* sim, uint64_t* where) { return sim->host.memory.guard_broken(where); }
void unvirt_send(Sim* sim, const uint8_t* data, uint32_t size, int bad) {
    sim->mac.to_device.push_back({{data, data + size}, bad != 0});
}
uint32_t unvirt_frames_waiting(Sim* sim) { return sim->mac.to_device.size(); }
uint64_t unvirt_last_sent(Sim* sim) { return sim->mac.last_sent; }
void unvirt_interframe(Sim* sim, uint32_t cycles) { sim->mac.interframe = cycles; }
int unvirt_frame(Sim* sim, uint8_t* data, uint32_t room, uint64_t* first, uint64_t* last, int* aborted) {
    if (sim->mac.from_device.empty()) return -1;
    Frame& frame = sim->mac.from_device.front();
    uint32_t size = std::min<size_t>(room, frame.bytes.size());
    std::memcpy(data, frame.bytes.data(), size);
    *first = frame.first;
    *last = frame.last;
    *aborted = frame.aborted;
    sim->mac.from_device.pop_front();
    return int(size);
}
uint64_t unvirt_entropy(Sim* sim) { return sim->entropy.bytes_taken; }
void unvirt_mac(Sim* sim, int stalled, int link_up) { sim->mac.stalled = stalled; sim->mac.link_up = link_up; }
void unvirt_feature_mask(Sim* sim, const uint32_t* words) { std::memcpy(sim->feature_mask, words, sizeof sim->feature_mask); }
void unvirt_link(Sim* sim, uint32_t max_payload, uint32_t max_read, uint32_t rcb, int bus_master, int extended_tags) {
    sim->host.max_payload = max_payload;
    sim->host.max_read = max_read;
    sim->host.rcb = rcb;
    sim->host.bus_master = bus_master;
    sim->host.extended_tags = extended_tags;
}
void unvirt_quiet(Sim* sim, int quiet, int expect_errors) {
    sim->host.quiet = quiet;
    sim->host.expect_errors = expect_errors;
}
void unvirt_block(Sim* sim, int kind, int blocked) { sim->host.block_credits(kind, blocked); }
// Reads of this range are never answered from now on; of size 0: all are answered again.
void unvirt_mute(Sim* sim, uint64_t address, uint64_t size) {
    if (size) sim->host.mute.emplace_back(address, size); else sim->host.mute.clear();
}
// What is used of this ring counts from now on: a split used ring, or the descriptors of a packed one.
int unvirt_watch_used(Sim* sim, uint64_t address, uint64_t size, int packed) {
    Region* region = sim->host.memory.find(address, size);
    if (!region || region->window) return 0;
    sim->host.used.watch(address, size, packed);
    return 1;
}
void unvirt_watch_none(Sim* sim) { sim->host.used.forget(); }
// Frames are given to the device only while fewer than `window` of them are missing in the rings watched, at most one in
// `period` / 1024 cycles.
void unvirt_pace(Sim* sim, uint32_t window, uint64_t period) { sim->mac.pace(window, period); }
void unvirt_record(Sim* sim, int on) { sim->host.recording = on; sim->host.records.clear(); }
uint64_t unvirt_records(Sim* sim, const Record** out) {
    *out = sim->host.records.data();
    return sim->host.records.size();
}
int unvirt_intx(Sim* sim) { return sim->host.intx; }
const Counters* unvirt_counters(Sim* sim) { return &sim->host.count; }
const uint64_t* unvirt_stats(Sim* sim) { return sim->stats; }
uint32_t unvirt_violations(Sim* sim) { return sim->host.violations.size(); }
const char* unvirt_violation(Sim* sim, uint32_t number) { return sim->host.violations[number].c_str(); }
void unvirt_forgive(Sim* sim) { sim->host.violations.clear(); }

// kind 0: power (rst), 1: hot reset, 2: link down and up; it lasts until the end is called for.
void unvirt_reset_begin(Sim* sim, int kind) {
    if (kind == 0) sim->dut.rst = 1;
    if (kind == 1) sim->dut.hot_reset = 1;
    if (kind == 2) sim->dut.link_up = 0;
    sim->host.link_reset();
    sim->incoming.clear();
    sim->down_beat = 0;
    sim->down_shown = false;
    sim->cut_off = sim->resetting = true;
}
void unvirt_reset_end(Sim* sim) {
    sim->resetting = sim->tx_held = false;
    sim->dut.rst = 0;
    sim->dut.hot_reset = 0;
    sim->dut.link_up = 1;
    sim->host.link_reset();
}

int unvirt_waves(Sim* sim, const char* path, uint64_t from, uint64_t to) {
    return sim->record(path, from, to);
}

void unvirt_record_ports(Sim* sim, const char* path) {
    if (sim->ports) std::fclose(sim->ports);
    sim->ports = path && *path ? std::fopen(path, "wb") : nullptr;
}

void unvirt_trace(Sim* sim, const char* path) {
    if (sim->trace) std::fclose(sim->trace);
    sim->trace = path && *path ? std::fopen(path, "w") : nullptr;
    if (!sim->trace) { sim->host.trace = nullptr; return; }
    sim->host.trace = [sim](const char* way, const Dws& dws) {
        std::fprintf(sim->trace, "%llu %s", (unsigned long long)sim->host.cycle, way);
        for (uint32_t dw : dws) std::fprintf(sim->trace, " %08x", __builtin_bswap32(dw));
        std::fputc('\n', sim->trace);
    };
}

}  // extern "C"
