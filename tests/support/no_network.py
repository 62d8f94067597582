"""Processes that are killed when they send anything to anyone: `python no_network.py COMMAND ...`.

Linux kills the process (SIGSYS) at the system call, whatever language it comes from: `connect` or
`sendto` with an address as long as the internet's are. It may still listen and answer, as a server
does, and ask services of its own machine, as the C library does for the name of a user.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
from pathlib import Path

# linux/audit.h, and the numbers of connect and sendto
MACHINES = {"x86_64": (0xC000003E, 42, 44), "aarch64": (0xC00000B7, 203, 206)}
AVAILABLE = sys.platform == "linux" and platform.machine() in MACHINES
KILLED = -signal.SIGSYS if AVAILABLE else 0
PREFIX = [sys.executable, str(Path(__file__).resolve())] if AVAILABLE else []

# linux/filter.h, linux/seccomp.h, linux/prctl.h
LOAD, JUMP, JUMP_IF_EQUAL, RETURN = 0x20, 0x05, 0x15, 0x06
ALLOW, KILL_PROCESS = 0x7FFF0000, 0x80000000
NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER = 38, 22, 2
# struct seccomp_data: number of the call, architecture, and the third and the sixth argument,
# which are the length of an address
NUMBER, ARCHITECTURE, CONNECT_LENGTH, SEND_TO_LENGTH = 0, 4, 32, 56
LENGTHS = (16, 28, 128)  # sockaddr_in, sockaddr_in6, sockaddr_storage


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install() -> None:
    """From now on, for this process and all that it starts. Raises OSError where it cannot be."""
    architecture, connect, send_to = MACHINES[platform.machine()]
    allow, kill = 11, 12  # places in this list; a jump counts from the instruction after it
    code = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_IF_EQUAL, 0, allow - 2, architecture),
        (LOAD, 0, 0, NUMBER),
        (JUMP_IF_EQUAL, 3, 0, connect),
        (JUMP_IF_EQUAL, 0, allow - 5, send_to),
        (LOAD, 0, 0, SEND_TO_LENGTH),
        (JUMP, 0, 0, 1),
        (LOAD, 0, 0, CONNECT_LENGTH),
        *((JUMP_IF_EQUAL, kill - 9 - n, 0, length) for n, length in enumerate(LENGTHS)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, KILL_PROCESS),
    ]
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in code)
    program = _Program(len(code), packed)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(
        SET_SECCOMP, FILTER, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), "this system lets nobody forbid system calls")


if __name__ == "__main__":
    install()
    os.execvp(sys.argv[1], sys.argv[1:])
