"""Runs a function in a process of its own, and kills that before its n-th system call that changes files.

Through ptrace(2), so that a kill falls between any two of them, whoever makes them: Python, Arrow or the C library, in
the process itself or in one that it forked. All of them are killed at once, as by a machine that loses its power. A
filter of seccomp(2) has them stop at such calls alone: at every call, they would take several times as long.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress

_TRACE_ME, _GO_ON, _SET_OPTIONS, _CALL_INFO = 0, 7, 0x4200, 0x420E
_OPTIONS = 0x2 | 0x4 | 0x8 | 0x80 | 0x100000  # follow fork, vfork and threads, stop at calls, end with the tracer
_AT_CALL = 7  # PTRACE_EVENT_SECCOMP, above the lower 16 bits of a status
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2  # of prctl
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # of the filter's machine: 32 bits of seccomp_data; to a constant
_ALLOW, _TRACE = 0x7FFF0000, 0x7FF00000
_ALL_THREADS = 0x40000000

# write, pwrite64, writev, pwritev, pwritev2, truncate, ftruncate, fallocate, copy_file_range, sendfile, rename,
# renameat, renameat2, link, linkat, symlink, symlinkat, unlink, unlinkat, mkdir, mkdirat, rmdir. Not fsync and flock:
# who is killed before one of them leaves what who is killed after it leaves.
_CHANGING = {
    "x86_64": {1, 18, 20, 296, 328, 76, 77, 285, 326, 40, 82, 264, 316, 86, 265, 88, 266, 87, 263, 83, 258, 84},
    "aarch64": {64, 68, 66, 70, 287, 45, 46, 47, 285, 71, 38, 276, 37, 36, 35, 34},
}[platform.machine()]
_OPENING = {"x86_64": {2: 1, 257: 2}, "aarch64": {56: 2}}[platform.machine()]  # open, openat: where their flags stand


class _CallInfo(ctypes.Structure):
    """The beginning of struct ptrace_syscall_info."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 3),
        ("architecture", ctypes.c_uint32),
        ("instruction_pointer", ctypes.c_uint64),
        ("stack_pointer", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


class _Instruction(ctypes.Structure):
    """struct sock_filter."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("skip_if_true", ctypes.c_uint8),
        ("skip_if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def _filter() -> _Program:
    """Stops at calls that may change files; the number of a call is the first of its seccomp_data."""
    numbers = sorted(_CHANGING | _OPENING.keys())
    comparisons = [(_JUMP_IF_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    program = [(_LOAD, 0, 0, 0), *comparisons, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _TRACE)]
    return _Program(len(program), (_Instruction * len(program))(*program))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long] * 4
_libc.ptrace.restype = ctypes.c_long
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_stop_at_changes = _filter()


def killed_before(step: int, function: Callable[[], None]) -> bool:
    """Run `function` in a forked process, and kill it before its step-th system call, from 0, that changes files; those
    of processes that it forks count as its own.

    Returns: True if it was killed, False if it ended with fewer. Raises AssertionError if it failed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, for forking beside other threads
        process = os.fork()
    if process == 0:
        status = 1
        try:
            _ptrace(_TRACE_ME, 0, 0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            _prctl(_NO_NEW_PRIVILEGES, 1)  # else only root may set a filter
            _prctl(_SECCOMP, _FILTER, ctypes.addressof(_stop_at_changes))
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.waitpid(process, _ALL_THREADS)
    _ptrace(_SET_OPTIONS, process, 0, _OPTIONS)
    _ptrace(_GO_ON, process, 0, 0)
    return _kill_at(step, process)


def _kill_at(left: int, process: int) -> bool:
    """Let a traced process, its threads and its children go on until all have ended, or until `left` changing calls are
    done."""
    killed, alive = False, {process}
    while alive:
        thread, status = os.waitpid(-1, _ALL_THREADS)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            alive.discard(thread)
            assert killed or thread != process or os.waitstatus_to_exitcode(status) == 0
            continue
        alive.add(thread)
        what, delivered = os.WSTOPSIG(status), 0
        if status >> 16 == _AT_CALL:
            if not killed and _changes(thread):
                left -= 1
                if left < 0:
                    killed = True
        elif what not in (signal.SIGTRAP, signal.SIGSTOP):
            delivered = what
        if killed:
            for one in alive:
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            continue
        with suppress(ProcessLookupError):  # a thread whose process is ending
            _ptrace(_GO_ON, thread, 0, delivered)
    return killed


def _changes(thread: int) -> bool:
    info = _CallInfo()
    _ptrace(_CALL_INFO, thread, ctypes.sizeof(info), ctypes.addressof(info))
    flags = _OPENING.get(info.number)
    if flags is not None:  # it changes something if it makes or empties the file
        return bool(info.arguments[flags] & (os.O_CREAT | os.O_TRUNC))
    return info.number in _CHANGING


def _ptrace(request: int, thread: int, address: int, data: int) -> None:
    if _libc.ptrace(request, thread, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _prctl(option: int, *arguments: int) -> None:
    if _libc.prctl(option, *arguments, *[0] * (4 - len(arguments))) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
