// SPDX-License-Identifier: BSD-2-Clause
// unvirt (64 bits) between a PCIe link layer and an Ethernet MAC of your own; my_pcie and my_mac stand for them.
module my_nic(input pcie_rx, output pcie_tx, input eth_rx, output eth_tx);
  wire clk, rst, link_up, hot_reset, mac_link_up;
  // TLPs: the header beside the first beat of payload, DW 0 of it in bits 31:0, first byte of each DW in its bits 7:0.
  wire rx_valid, rx_ready, rx_first, rx_last, tx_valid, tx_ready, tx_first, tx_last;
  wire [127:0] rx_header, tx_header;
  wire [63:0] rx_data, tx_data;
  // Limits of InitFC and UpdateFC as they came, cumulative; infinite_fc has one bit each.
  wire [7:0] ph, nph, cplh;
  wire [11:0] pd, npd, cpld;
  wire [5:0] infinite_fc;
  wire nonposted_freed;                        // give the host one more non-posted credit
  // Frames without preamble and FCS; towards the MAC without gaps, from the MAC without waiting.
  wire mtx_tvalid, mtx_tready, mtx_tlast, mtx_tuser, mrx_tvalid, mrx_tlast, mrx_tuser;
  wire [63:0] mtx_tdata, mrx_tdata;
  wire [7:0] mtx_tkeep, mrx_tkeep;

  my_pcie pcie(.clk(clk), .rst(rst), .serial_rx(pcie_rx), .serial_tx(pcie_tx), .link_up(link_up), .hot_reset(hot_reset),
    .rx_valid(rx_valid), .rx_ready(rx_ready), .rx_header(rx_header), .rx_data(rx_data), .rx_first(rx_first), .rx_last(rx_last),
    .tx_valid(tx_valid), .tx_ready(tx_ready), .tx_header(tx_header), .tx_data(tx_data), .tx_first(tx_first), .tx_last(tx_last),
    .ph(ph), .pd(pd), .nph(nph), .npd(npd), .cplh(cplh), .cpld(cpld), .infinite(infinite_fc), .nonposted_freed(nonposted_freed));

  unvirt nic(.clk(clk), .rst(rst), .link_up(link_up), .hot_reset(hot_reset),
    .rx_tlp_valid(rx_valid), .rx_tlp_ready(rx_ready), .rx_tlp_header(rx_header), .rx_tlp_data(rx_data), .rx_tlp_first(rx_first),
    .rx_tlp_last(rx_last), .tx_tlp_valid(tx_valid), .tx_tlp_ready(tx_ready), .tx_tlp_header(tx_header), .tx_tlp_data(tx_data),
    .tx_tlp_first(tx_first), .tx_tlp_last(tx_last), .fc_ph(ph), .fc_pd(pd), .fc_nph(nph), .fc_npd(npd), .fc_cplh(cplh),
    .fc_cpld(cpld), .fc_infinite(infinite_fc), .rx_nonposted_freed(nonposted_freed),
    .mac_tx_tvalid(mtx_tvalid), .mac_tx_tready(mtx_tready), .mac_tx_tdata(mtx_tdata), .mac_tx_tkeep(mtx_tkeep),
    .mac_tx_tlast(mtx_tlast), .mac_tx_tuser(mtx_tuser), .mac_rx_tvalid(mrx_tvalid), .mac_rx_tdata(mrx_tdata),
    .mac_rx_tkeep(mrx_tkeep), .mac_rx_tlast(mrx_tlast), .mac_rx_tuser(mrx_tuser), .mac_link_up(mac_link_up),
    .feature_mask(96'd0), .stat_rx_dropped(), .stat_tx_dropped(), .stat_unsupported());

  my_mac mac(.clk(clk), .rst(rst), .serial_rx(eth_rx), .serial_tx(eth_tx), .link_up(mac_link_up),
    .tx_tvalid(mtx_tvalid), .tx_tready(mtx_tready), .tx_tdata(mtx_tdata), .tx_tkeep(mtx_tkeep), .tx_tlast(mtx_tlast),
    .tx_tuser(mtx_tuser), .rx_tvalid(mrx_tvalid), .rx_tdata(mrx_tdata), .rx_tkeep(mrx_tkeep), .rx_tlast(mrx_tlast), .rx_tuser(mrx_tuser));
endmodule
