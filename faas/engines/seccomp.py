"""A system call filter for sandboxes that no container engine looks after: what Docker's default profile refuses and a
function has no use for. In the kernel's classic BPF (seccomp(2), linux/filter.h), which bubblewrap loads for us.

Everything is allowed but a list: calls that administer the host, make namespaces or mounts (a way to capabilities in
them, and to kernel code that is otherwise out of reach), or have a history of being used to break out.
"""

from __future__ import annotations

import errno
import struct

# call: (number on x86_64, number on aarch64); None where that architecture does not have it. From asm/unistd.h.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
_MACHINES = ("x86_64", "aarch64")
_AUDIT_ARCH = (0xC000003E, 0xC00000B7)
_CLONE = (56, 220)
_CLONE3 = 435
_X32_BIT = 0x4000_0000
_NAMESPACE_FLAGS = 0x7E02_0000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data, little-endian
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF_0000, 0x0005_0000, 0x8000_0000


def program(machine: str) -> bytes | None:
    """The filter for ``os.uname().machine``; None for an architecture this table does not know.

    A foreign architecture's call (i386 on x86_64) kills the process; a refused call fails with EPERM; ``clone3``,
    whose flags a filter can't see, with ENOSYS, upon which libc uses ``clone``.
    """
    if machine not in _MACHINES:
        return None
    index = _MACHINES.index(machine)
    steps = [
        _step(_LOAD, _ARCH_AT),
        _step(_JUMP_EQUAL, _AUDIT_ARCH[index], 1, 0),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER_AT),
    ]
    if machine == "x86_64":
        steps += _if(_JUMP_AT_LEAST, _X32_BIT, _ERRNO | errno.ENOSYS)
    steps += _if(_JUMP_EQUAL, _CLONE3, _ERRNO | errno.ENOSYS)
    for numbers in REFUSED.values():
        number = numbers[index]
        if number is not None:
            steps += _if(_JUMP_EQUAL, number, _ERRNO | errno.EPERM)
    steps += [
        _step(_JUMP_EQUAL, _CLONE[index], 1, 0),
        _step(_RETURN, _ALLOW),
        _step(_LOAD, _FIRST_ARGUMENT_AT),
        *_if(_JUMP_ANY_BIT, _NAMESPACE_FLAGS, _ERRNO | errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(steps)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _if(test: int, value: int, then: int) -> list[bytes]:
    """Return ``then`` when the accumulator passes ``test``, else go on."""
    return [_step(test, value, 0, 1), _step(_RETURN, then)]
