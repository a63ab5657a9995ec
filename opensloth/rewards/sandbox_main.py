"""The inside of the sandbox, run as `python -I -S sandbox_main.py MOUNT_POINT`; standard library only.

Three processes: the outer one makes the namespaces; the first one of the new process namespace builds the root,
watches the clock and reports; the last one has no privileges and runs the code. When the first one ends, the kernel
ends everything in its namespace.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import secrets
import select
import signal
import struct
import sys
import time
import types
from collections.abc import Callable
from typing import Any

LENGTH = 8
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
ALL_NEW = 0x7E020080
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
ATTR_READ_ONLY, ATTR_NO_SUID, ATTR_NO_DEV, AT_RECURSIVE = 1, 2, 4, 0x8000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SCRATCH = "/tmp"
FIRST_UID = 0x60000000

# Numbers on x86_64 and aarch64 of what the code has no use for and could get out, fill memory or attack by.
DENIED = {
    "socket": (41, 198), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "unshare": (272, 97), "setns": (308, 268), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "mount_setattr": (442, 442), "chroot": (161, 51),
    "execve": (59, 221), "execveat": (322, 281), "fanotify_init": (300, 262), "personality": (135, 92),
    "open_by_handle_at": (304, 265), "vmsplice": (278, 75), "kexec_load": (246, 104), "init_module": (175, 105),
    "finit_module": (313, 273), "mknodat": (259, 33),
}  # fmt: skip
MACHINES = {"x86_64": (0, 0xC000003E, 56), "aarch64": (1, 0xC00000B7, 220)}
CLONE3 = 435

libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """A layer of the sandbox could not be had; the code was not run."""


def call(what: str, result: int) -> int:
    """`result` of a C call; raises Unavailable that names it if it failed."""
    if result < 0:
        raise Unavailable(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def main() -> None:
    """Make the namespaces and wait for what happens in them."""
    call("prctl(PDEATHSIG)", libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    if platform.machine() not in MACHINES:
        raise Unavailable(f"no system call filter for {platform.machine()}")
    root = enter_namespaces()
    first = os.fork()
    if first:
        # Only the first process holds the pipes now: when it ends, the reader sees the end.
        os.close(0)
        os.close(1)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 0xFF)
    call("prctl(PDEATHSIG)", libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    guarded(lambda: watch(root, sys.argv[1]))


def enter_namespaces() -> bool:
    """New namespaces for this process and its children; says whether it did so as root of the host."""
    flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    if os.geteuid() == 0:
        if libc.unshare(flags) == 0:
            return True
        # Root without its capabilities, as in a container: limits on processes do not hold for user 0.
        become_nobody()
        call("prctl(DUMPABLE)", libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))
        call("prctl(PDEATHSIG)", libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    user, group = os.geteuid(), os.getegid()
    call("user namespaces are not allowed here: unshare", libc.unshare(flags | CLONE_NEWUSER))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except OSError as error:
            raise Unavailable(f"user namespaces are not allowed here: {name}: {error.strerror}") from None
    return False


def watch(root: bool, mount_point: str) -> None:
    """As the first process of the namespace: run the code in another one, and report what passed in time."""
    limits = json.loads(frame())
    build_root(mount_point, limits["disk_bytes"], limits["packages"])
    code = json.loads(frame())
    asked, ask = os.pipe()
    heard, say = os.pipe()
    worker = os.fork()
    if worker == 0:
        guarded(lambda: run(root, limits, code, asked, say))
    os.close(asked)
    os.close(say)
    # Read after the fork: the code cannot find the tests or the token in its memory before it has run.
    tests = frame()
    token = secrets.token_hex(16)
    deadline = time.monotonic() + limits["timeout_s"]
    report(listen(heard, ask, tests, token, deadline))


def listen(heard: int, ask: int, tests: bytes, token: str, deadline: float) -> dict[str, object]:
    """Hand over the tests when the code has run; which of them passed until `deadline`."""
    lines = Lines(heard, deadline)
    ready = lines.next()
    if ready != b"ready":
        return {"unavailable": (ready or b"no answer from the last process").decode(errors="replace")}
    loaded = lines.next()
    if loaded != b"loaded":
        status = "timeout" if lines.late else "code_error" if loaded else "died"
        return {"status": status, "passed": [], "detail": (loaded or b"").decode(errors="replace")}
    try:
        os.write(ask, token.encode() + b"\n")
        os.set_blocking(ask, False)
        send(ask, tests, deadline)
        os.close(ask)
    except OSError:
        return {"status": "died", "passed": []}
    passed: list[int] = []
    said: list[str] = []
    while (line := lines.next()) is not None:
        mark, _, rest = line.partition(b" ")
        if mark != token.encode():
            break
        if rest == b"done":
            return {"status": "done", "passed": passed, "said": said}
        if rest.isdigit() and len(rest) < 10:
            passed.append(int(rest))
        elif rest.startswith(b"= "):
            said.append(rest[2:].decode(errors="replace"))
    # What passed before a hang or a death has passed: each test is told as it ends.
    return {"status": "timeout" if lines.late else "died", "passed": passed}


class Lines:
    """Lines of a pipe until a deadline, at most 256 bytes each and 100,000 in all; `late` tells how it ended."""

    def __init__(self, descriptor: int, deadline: float) -> None:
        self.descriptor, self.deadline = descriptor, deadline
        self.rest = b""
        self.count = 0
        self.late = False

    def next(self) -> bytes | None:
        """The next line without its end; None at the end, at the deadline or when it is too long."""
        while b"\n" not in self.rest:
            left = self.deadline - time.monotonic()
            if left <= 0 or not select.select([self.descriptor], [], [], left)[0]:
                self.late = True
                return None
            chunk = os.read(self.descriptor, 4096)
            if not chunk or len(self.rest) > 256 or self.count > 100_000:
                return None
            self.rest += chunk
        line, _, self.rest = self.rest.partition(b"\n")
        self.count += 1
        return line


def send(descriptor: int, data: bytes, deadline: float) -> None:
    """Write all of `data`, giving up with OSError at the deadline."""
    rest = memoryview(data)
    while rest:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([], [descriptor], [], left)[1]:
            raise TimeoutError
        rest = rest[os.write(descriptor, rest[:4096]) :]


def build_root(mount_point: str, disk_bytes: int, packages: list[str]) -> None:
    """A root with Python's library, `packages`, C libraries and a few devices, all read-only, and an empty scratch."""
    mount(None, "/", None, MS_REC | MS_PRIVATE, None)
    mount("tmpfs", mount_point, "tmpfs", MS_NOSUID | MS_NODEV, f"size={disk_bytes},nr_inodes=4096,mode=755")
    for path in library_paths(packages):
        bind(path, mount_point + path, read_only=True)
    for path in ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"):
        if os.path.exists(path):
            bind(path, mount_point + path, read_only=False)
    os.makedirs(mount_point + SCRATCH, exist_ok=True)  # it is there if Python or a package lies below it
    os.chmod(mount_point + SCRATCH, 0o1777)
    os.chdir(mount_point)
    call("pivot_root", libc.syscall(155 if platform.machine() == "x86_64" else 41, b".", b"."))
    call("umount of the old root", libc.umount2(b".", MNT_DETACH))
    os.chdir(SCRATCH)


def library_paths(packages: list[str]) -> list[str]:
    """`packages` and the directories that Python needs, none of which lies in another."""
    wanted = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo"]
    wanted += [os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "lib"), *packages]
    found: list[str] = []
    for path in sorted({path for path in wanted if os.path.isdir(path)}, key=len):
        real = os.path.realpath(path)
        if not any(path == other or path.startswith(other + "/") for other in found):
            found.append(path)
        if real != path and not any(real == other or real.startswith(other + "/") for other in found):
            found.append(real)
    return found


def bind(source: str, target: str, *, read_only: bool) -> None:
    """Show `source` at `target`, with everything mounted below it."""
    directory = os.path.isdir(source)
    os.makedirs(target if directory else os.path.dirname(target), exist_ok=True)
    if not directory:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(source, target, None, MS_BIND | MS_REC, None)
    if read_only:
        attributes = struct.pack("QQQQ", ATTR_READ_ONLY | ATTR_NO_SUID | ATTR_NO_DEV, 0, 0, 0)
        result = libc.syscall(442, -100, target.encode(), AT_RECURSIVE, attributes, len(attributes))
        call(f"making {source} read-only", result)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    """mount(2); raises Unavailable."""
    texts = [None if text is None else text.encode() for text in (source, target, kind)]
    call(f"mount on {target}", libc.mount(*texts, ctypes.c_ulong(flags), None if data is None else data.encode()))


def run(root: bool, limits: dict[str, Any], code: list[str], asked: int, say: int) -> None:
    """As the last process: give up every privilege, run the code, then the tests, and say which passed."""
    try:
        give_up(root, limits, keep=(asked, say))
    except (Unavailable, OSError) as problem:
        os.write(say, f"{problem}\n".encode())
        os._exit(1)
    os.write(say, b"ready\n")
    execute, make, read, write, leave, told = exec, compile, os.read, os.write, os._exit, describe
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    sys.path += limits["packages"]
    try:
        for part in code:
            execute(make(part, "<completion>", "exec"), module.__dict__)
    except BaseException as error:
        write(say, b"code_error " + told(error) + b"\n")
        leave(0)
    write(say, b"loaded\n")
    data = b""
    while chunk := read(asked, 65536):
        data += chunk
    token, _, tests = data.partition(b"\n")
    for place, test in enumerate(json.loads(tests)):
        if isinstance(test, list):
            write(say, token + b" = " + answer(module.__dict__, *test) + b"\n")
            continue
        try:
            execute(make(test, f"<test {place}>", "exec"), module.__dict__)
        except BaseException:
            continue
        write(say, token + b" %d\n" % place)
    write(say, token + b" done\n")
    leave(0)


def answer(names: dict[str, object], function: str, arguments: list[object]) -> bytes:
    """What a function of the code returns, as `value NUMBER`, or `error TEXT`."""
    try:
        return b"value " + repr(float(names[function](*arguments))).encode()  # type: ignore[operator]
    except BaseException as error:
        return b"error " + describe(error)


def describe(error: BaseException) -> bytes:
    """An exception in one short line."""
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:
        text = type(error).__name__
    return text.encode("ascii", "replace")[:180].replace(b"\n", b" ").replace(b"\r", b" ")


def give_up(root: bool, limits: dict[str, Any], keep: tuple[int, int]) -> None:
    """Take user, privileges, descriptors, resources and system calls away from this process for good."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    least, most = sorted(keep)
    os.closerange(3, least)
    os.closerange(least + 1, most)
    os.closerange(most + 1, 4096)
    if root:
        become_nobody()
    call("prctl(DUMPABLE)", libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
    drop_capabilities()
    cpu = int(limits["timeout_s"]) + 2
    for name, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
    ):
        resource.setrlimit(name, (int(value), int(value)))
    os.nice(5)
    os.umask(0o077)
    # A thread for each core would take more processes and address space than there is.
    os.environ.update({"HOME": SCRATCH, "TMPDIR": SCRATCH, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"})
    filter_system_calls()


def become_nobody() -> None:
    """A user of its own: limits on processes are counted by user, and no other process is its to signal."""
    user = FIRST_UID + int.from_bytes(os.urandom(3), "big")
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def drop_capabilities() -> None:
    """No capability, not even in the own user namespace, and none to be had by running something."""
    call("prctl(NO_NEW_PRIVS)", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    header = struct.pack("Ii", 0x20080522, 0)
    call("capset", libc.capset(header, bytes(24)))


def filter_system_calls() -> None:
    """A seccomp filter that refuses DENIED, other calling conventions and new namespaces."""
    column, arch, clone = MACHINES[platform.machine()]
    load, equal, at_least, some_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow, refuse, unknown = 0x80000000, 0x7FFF0000, 0x50001, 0x50026
    program = [
        (load, 0, 0, 4), (equal, 1, 0, arch), (give, 0, 0, kill),
        (load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (give, 0, 0, refuse),
        (equal, 0, 1, CLONE3), (give, 0, 0, unknown),
    ]  # fmt: skip
    for numbers in DENIED.values():
        program += [(equal, 0, 1, numbers[column]), (give, 0, 0, refuse)]
    program += [(equal, 0, 3, clone), (load, 0, 0, 16), (some_bit, 0, 1, ALL_NEW & ~0x80), (give, 0, 0, refuse)]
    program.append((give, 0, 0, allow))
    packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    described = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(packed))
    call("seccomp", libc.prctl(PR_SET_SECCOMP, 2, described, 0, 0))


def frame() -> bytes:
    """The next part of what was sent."""
    size = int.from_bytes(exactly(LENGTH), "big")
    return exactly(size)


def exactly(size: int) -> bytes:
    """So many bytes of the standard input, unbuffered: what comes later is not to be in memory yet."""
    parts = bytearray()
    while len(parts) < size:
        chunk = os.read(0, min(65536, size - len(parts)))
        if not chunk:
            raise Unavailable("the request ended early")
        parts += chunk
    return bytes(parts)


def report(answer: dict[str, object]) -> None:
    """Say the outcome and end, and with this process all others of the namespace."""
    os.write(1, json.dumps(answer).encode())
    os._exit(0)


def guarded(work: Callable[[], None]) -> None:
    """Run `work`, which does not return; a layer that cannot be had is reported."""
    try:
        work()
    except (Unavailable, OSError) as problem:
        report({"unavailable": str(problem)})


if __name__ == "__main__":
    guarded(main)
