# SPDX-License-Identifier: BSD-2-Clause
"""The C interface of the compiled simulation: its structures and functions, as ``cpp/harness.cpp`` declares them."""

import ctypes

__all__ = ["Answer", "CLOCKING", "Counters", "Message", "Parameters", "SIGNATURES", "load"]


class Parameters(ctypes.Structure):
    _fields_ = [("seed", ctypes.c_uint64)] + [(name, ctypes.c_uint32) for name in (
        "latency", "latency_spread", "posted_spread", "tear", "cut", "reorder", "up_rate",
        "down_rate", "flight", "tx_stall", "rx_gap", "mac_tx_stall", "mac_rx_gap")] + [
        ("credits", ctypes.c_uint32 * 6)] + [(name, ctypes.c_uint32) for name in (
            "infinite", "drop", "unsupported", "abort", "poison", "nonposted_depth",
            "dllp_bytes", "dllp_interval")]


class Answer(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint64), ("cycle", ctypes.c_uint64), ("status", ctypes.c_uint32),
                ("data", ctypes.c_uint32 * 2)]


class Message(ctypes.Structure):
    _fields_ = [("cycle", ctypes.c_uint64), ("address", ctypes.c_uint64),
                ("data", ctypes.c_uint32)]


class Counters(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64 * 4) for name in ("up", "up_bytes", "down", "down_bytes")] \
        + [(name, ctypes.c_uint64) for name in ("read_bytes", "write_bytes", "reads_in_flight",
                                                "most_reads_in_flight")]


SIGNATURES = {
    "unvirt_new": (ctypes.c_void_p, [ctypes.POINTER(Parameters), ctypes.c_int]),
    "unvirt_free": (None, [ctypes.c_void_p]),
    "unvirt_parameters": (ctypes.POINTER(Parameters), [ctypes.c_void_p]),
    "unvirt_cycle": (ctypes.c_uint64, [ctypes.c_void_p]),
    "unvirt_access": (None, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int, ctypes.c_int,
                             ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint32]),
    "unvirt_inject": (None, [ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32), ctypes.c_uint32, ctypes.c_int]),
    "unvirt_completion": (ctypes.c_int, [ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32), ctypes.c_uint32]),
    "unvirt_answer": (ctypes.c_int, [ctypes.c_void_p, ctypes.POINTER(Answer)]),
    "unvirt_message": (ctypes.c_int, [ctypes.c_void_p, ctypes.POINTER(Message)]),
    "unvirt_map": (None, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p,
                          ctypes.c_int, ctypes.c_int]),
    "unvirt_window": (None, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64]),
    "unvirt_unmap": (None, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64]),
    "unvirt_copy": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64,
                                   ctypes.c_char_p, ctypes.c_int]),
    "unvirt_guard": (ctypes.c_int, [ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64)]),
    "unvirt_send": (None, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32, ctypes.c_int]),
    "unvirt_frames_waiting": (ctypes.c_uint32, [ctypes.c_void_p]),
    "unvirt_last_sent": (ctypes.c_uint64, [ctypes.c_void_p]),
    "unvirt_interframe": (None, [ctypes.c_void_p, ctypes.c_uint32]),
    "unvirt_frame": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32,
                                    ctypes.POINTER(ctypes.c_uint64),
                                    ctypes.POINTER(ctypes.c_uint64),
                                    ctypes.POINTER(ctypes.c_int)]),
    "unvirt_entropy": (ctypes.c_uint64, [ctypes.c_void_p]),
    "unvirt_mac": (None, [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]),
    "unvirt_feature_mask": (None, [ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32)]),
    "unvirt_link": (None, [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32,
                           ctypes.c_int, ctypes.c_int]),
    "unvirt_quiet": (None, [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]),
    "unvirt_block": (None, [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]),
    "unvirt_mute": (None, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64]),
    "unvirt_watch_used": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int]),
    "unvirt_watch_none": (None, [ctypes.c_void_p]),
    "unvirt_pace": (None, [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64]),
    "unvirt_record": (None, [ctypes.c_void_p, ctypes.c_int]),
    "unvirt_records": (ctypes.c_uint64, [ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)]),
    "unvirt_intx": (ctypes.c_int, [ctypes.c_void_p]),
    "unvirt_counters": (ctypes.POINTER(Counters), [ctypes.c_void_p]),
    "unvirt_stats": (ctypes.POINTER(ctypes.c_uint64), [ctypes.c_void_p]),
    "unvirt_violations": (ctypes.c_uint32, [ctypes.c_void_p]),
    "unvirt_violation": (ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_uint32]),
    "unvirt_forgive": (None, [ctypes.c_void_p]),
    "unvirt_reset_begin": (None, [ctypes.c_void_p, ctypes.c_int]),
    "unvirt_reset_end": (None, [ctypes.c_void_p]),
    "unvirt_waves": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64,
                                    ctypes.c_uint64]),
    "unvirt_record_ports": (None, [ctypes.c_void_p, ctypes.c_char_p]),
    "unvirt_trace": (None, [ctypes.c_void_p, ctypes.c_char_p]),
}


CLOCKING = {"unvirt_run": (ctypes.c_uint32, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32]),
            "unvirt_write_coverage": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p]),
            "unvirt_mutant": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint32]),
            "unvirt_infected": (ctypes.c_uint32, [ctypes.c_void_p, ctypes.POINTER(ctypes.POINTER(ctypes.c_uint32))])}


def load(path, signatures):
    """Open a compiled simulation and declare these functions of it: ``{name: (result, arguments)}``."""
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
