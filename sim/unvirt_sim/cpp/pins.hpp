// SPDX-License-Identifier: BSD-2-Clause
// The flat ports of the device as plain memory: what another simulator reads before, and writes after, its logic settled.
#pragma once
#include <cstdint>

namespace unvirt {

// The layout is that of the ctypes structure in hosts/pins.py; wide ports come first so that there are no holes.
template <unsigned Width> struct Pins {
    // Inputs of the device.
    uint32_t rx_tlp_header[4], rx_tlp_data[Width / 32], mac_rx_tdata[Width / 32];
    uint64_t mac_rx_tkeep;
    uint32_t rx_tlp_valid, rx_tlp_first, rx_tlp_last, tx_tlp_ready;
    uint32_t fc_ph, fc_pd, fc_nph, fc_npd, fc_cplh, fc_cpld, fc_infinite;
    uint32_t feature_mask[3];
    uint32_t rst, link_up, hot_reset, mac_link_up, mac_tx_tready;
    uint32_t mac_rx_tvalid, mac_rx_tlast, mac_rx_tuser;
    // Outputs of the device.
    uint32_t tx_tlp_header[4], tx_tlp_data[Width / 32], mac_tx_tdata[Width / 32];
    uint64_t mac_tx_tkeep;
    uint32_t tx_tlp_valid, tx_tlp_first, tx_tlp_last, rx_tlp_ready, rx_nonposted_freed;
    uint32_t mac_tx_tvalid, mac_tx_tlast, mac_tx_tuser;
    uint32_t stat_rx_dropped, stat_tx_dropped, stat_unsupported;
};

}  // namespace unvirt
