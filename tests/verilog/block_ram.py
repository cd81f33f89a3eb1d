# SPDX-License-Identifier: BSD-2-Clause
"""A behavioural model of the ECP5 block RAM, DP16KD, for what yosys makes of our memories.

The library that comes with yosys knows its pins only. The model is of what the data sheet guarantees and no more: reading a place on one port
that the other port writes with the same clock edge gives X, so that a netlist which relies on it is found out.

Both ports have one width and one clock, outputs are not registered, the content begins as zero: the test that uses the model checks that
the netlist asks for nothing else. Widths of 1, 2, 4, 9 and 18 have two ports for reading and writing; with 36 port A writes, its data being DIB and
DIA, and port B reads, its data being DOB and DOA.
"""

__all__ = ["FIXED", "model"]

FIXED = {
    "REGMODE_A": '"NOREG"', "REGMODE_B": '"NOREG"', "CLKAMUX": '"CLKA"', "CLKBMUX": '"CLKB"',
    "CSDECODE_A": '"0b000"', "CSDECODE_B": '"0b000"',
}
"""Parameters that the model does not look at, and the only values that it stands for."""

_WRITE_MODES = ("WRITEMODE_A", "WRITEMODE_B", "RESETMODE", "ASYNC_RESET_RELEASE", "GSR")


def _pins(name, count):
    return ", ".join(f"{name}{bit}" for bit in reversed(range(count)))


def model():
    """Return the Verilog of module DP16KD."""
    inputs = [_pins(f"{pin}{side}", count) for side in "AB" for pin, count in (("DI", 18), ("AD", 14), ("CS", 3))]
    inputs += [f"CE{side}, OCE{side}, CLK{side}, WE{side}, RST{side}" for side in "AB"]
    outputs = [_pins(f"DO{side}", 18) for side in "AB"]
    parameters = [*FIXED, *_WRITE_MODES, *(f"INITVAL_{number:02X}" for number in range(64))]
    declared = "\n".join(f"  parameter {name} = 0;" for name in parameters)
    return f"""
module DP16KD({", ".join(inputs + outputs)});
  parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18;
{declared}
  input {", ".join(inputs)};
  output {", ".join(outputs)};
  localparam WIDE = DATA_WIDTH_A == 36;
  localparam SHIFT = WIDE ? 5 : DATA_WIDTH_A == 18 ? 4 : DATA_WIDTH_A == 9 ? 3 : DATA_WIDTH_A == 4 ? 2 : DATA_WIDTH_A == 2 ? 1 : 0;
  localparam BYTES = WIDE ? 4 : DATA_WIDTH_A == 18 ? 2 : 1;
  localparam PART = DATA_WIDTH_A / BYTES;
  wire [17:0] dia = {{{_pins("DIA", 18)}}}, dib = {{{_pins("DIB", 18)}}};
  wire [13:0] ada = {{{_pins("ADA", 14)}}}, adb = {{{_pins("ADB", 14)}}};
  wire [DATA_WIDTH_A-1:0] into_a = WIDE ? {{dib, dia}} : dia;
  wire [13:0] row_a = ada >> SHIFT, row_b = adb >> SHIFT;
  wire write_a = CEA & WEA, write_b = CEB & WEB & !WIDE;
  // Without byte enables in the address every write is of the whole row.
  wire [3:0] bytes_a = BYTES == 1 ? 4'h1 : ada[3:0] & ((1 << BYTES) - 1), bytes_b = BYTES == 1 ? 4'h1 : adb[3:0] & ((1 << BYTES) - 1);
  reg [DATA_WIDTH_A-1:0] cells [0:(16384 >> SHIFT)-1];
  reg [DATA_WIDTH_A-1:0] from_a, from_b;
  assign {{{_pins("DOA", 18)}}} = WIDE ? from_b[17:0] : from_a;
  assign {{{_pins("DOB", 18)}}} = WIDE ? from_b >> 18 : from_b;
  integer i;
  initial for (i = 0; i < (16384 >> SHIFT); i = i + 1) cells[i] = 0;
  always @(posedge CLKA) begin
    if (CEA & !WIDE) from_a <= write_b & bytes_b != 0 & row_a == row_b ? {{DATA_WIDTH_A{{1'bx}}}} : cells[row_a];
    if (CEB) from_b <= write_a & bytes_a != 0 & row_a == row_b ? {{DATA_WIDTH_A{{1'bx}}}} : cells[row_b];
    for (i = 0; i < BYTES; i = i + 1) begin
      if (write_a & bytes_a[i]) cells[row_a][i * PART +: PART] <= into_a[i * PART +: PART];
      if (write_b & bytes_b[i]) cells[row_b][i * PART +: PART] <= dib[i * PART +: PART];
    end
  end
endmodule
"""
