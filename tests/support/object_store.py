"""An object-store mount, which supports only sequential writes of whole files, renames and deletions.

A real mount, served by a separate process over the kernel's FUSE protocol (`linux/fuse.h`), so that readers and writers in any
language see the behavior of Databricks' `/dbfs` and `/Volumes`: "Operation not supported" for appends, writes other than at the
end, changes of existing files, links, permissions and fsync. Written data becomes visible when the file is closed, and folders
have no times. Needs /dev/fuse and permission to mount, which tests have as root.

    python tests/support/object_store.py BACKING_FOLDER MOUNT_POINT [--no-replace]
"""

import ctypes
import errno
import os
import signal
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_DEVICE = "/dev/fuse"
_HEADER, _REPLY = struct.Struct("<IIQQIIIHH"), struct.Struct("<IiQ")
_ATTRIBUTES, _ENTRY, _OPENED = struct.Struct("<6Q10I"), struct.Struct("<4Q2I"), struct.Struct("<QII")
_MAX_WRITE = 128 * 1024
_ATOMIC_TRUNCATE, _DIRECT_IO = 1 << 3, 1
_SETS_SIZE = 1 << 3
_NO_REPLY = ("forget", "batch_forget", "interrupt")
_OPERATIONS = {
    1: "lookup",
    2: "forget",
    3: "getattr",
    4: "setattr",
    9: "mkdir",
    10: "unlink",
    11: "rmdir",
    12: "rename",
    14: "open",
    15: "read",
    16: "write",
    17: "statfs",
    18: "release",
    25: "flush",
    26: "init",
    27: "opendir",
    28: "readdir",
    29: "releasedir",
    35: "create",
    36: "interrupt",
    42: "batch_forget",
    45: "rename2",
}
# The kernel repeats these requests unless the reply is ENOSYS; all other requests get EOPNOTSUPP, as from a store.
_UNKNOWN = {op: errno.ENOSYS for op in (21, 22, 23, 24, 34, 38, 44, 46)}


def _unsupported() -> OSError:
    return OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@dataclass
class _Handle:
    """An open file or folder."""

    node: int
    descriptor: int = -1
    """Descriptor of the backing file, for reading."""
    written: bytearray | None = None
    """Data written since it was opened for writing."""
    names: list[tuple[str, int]] = field(default_factory=list)


class Store:
    """Serves the kernel's requests from a backing folder.

    Args:
        backing: contains the finished files.
        replaces: False rejects renames over existing files.
    """

    def __init__(self, backing: Path, replaces: bool = True) -> None:
        self._backing = backing
        self._replaces = replaces
        self._paths = {1: "."}
        self._nodes = {".": 1}
        self._handles: dict[int, _Handle] = {}
        self._next = 2

    def serve(self, device: int) -> None:
        """Serve until unmounted."""
        while True:
            try:
                request = os.read(device, _MAX_WRITE + 4096)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue
                raise
            _, operation, unique, node, *_ = _HEADER.unpack_from(request)
            name = _OPERATIONS.get(operation, "")
            try:
                if not name:
                    code = _UNKNOWN.get(operation, errno.EOPNOTSUPP)
                    raise OSError(code, os.strerror(code))
                reply, code = getattr(self, f"_{name}")(node, request[_HEADER.size :]), 0
            except OSError as error:
                reply, code = b"", -(error.errno or errno.EIO)
            if name not in _NO_REPLY:
                os.write(device, _REPLY.pack(_REPLY.size + len(reply), code, unique) + reply)

    def _init(self, _node: int, body: bytes) -> bytes:
        major, minor, read_ahead, _ = struct.unpack_from("<4I", body)
        return struct.pack(
            "<4I2H2I2H8I", major, min(minor, 31), read_ahead, _ATOMIC_TRUNCATE, 16, 12, _MAX_WRITE, 1, 0, 0, *[0] * 8
        )

    def _lookup(self, node: int, body: bytes) -> bytes:
        return self._entry(self._child(node, body))

    def _forget(self, _node: int, _body: bytes) -> bytes:
        return b""

    _batch_forget = _interrupt = _forget

    def _getattr(self, node: int, _body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attributes(node)

    def _setattr(self, node: int, body: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        if not valid & _SETS_SIZE or size != self._file(node).stat().st_size:
            raise _unsupported()
        return self._getattr(node, b"")

    def _mkdir(self, node: int, body: bytes) -> bytes:
        path = self._child(node, body[8:])
        (self._backing / path).mkdir()
        return self._entry(path)

    def _unlink(self, node: int, body: bytes) -> bytes:
        path = self._child(node, body)
        (self._backing / path).unlink()
        self._nodes.pop(path, None)
        return b""

    def _rmdir(self, node: int, body: bytes) -> bytes:
        path = self._child(node, body)
        (self._backing / path).rmdir()
        self._nodes.pop(path, None)
        return b""

    def _rename(self, node: int, body: bytes) -> bytes:
        return self._renamed(node, *struct.unpack_from("<Q", body), body[8:])

    def _rename2(self, node: int, body: bytes) -> bytes:
        folder, flags, _ = struct.unpack_from("<QII", body)
        if flags:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return self._renamed(node, folder, body[16:])

    def _renamed(self, node: int, folder: int, names: bytes) -> bytes:
        old, new, _ = names.split(b"\0", 2)
        source, target = self._child(node, old), self._child(folder, new)
        if not self._replaces and (self._backing / target).exists():
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.replace(self._backing / source, self._backing / target)
        self._nodes.pop(target, None)
        for path in [path for path in self._nodes if path == source or path.startswith(f"{source}/")]:
            moved = target + path[len(source) :]
            self._nodes[moved] = self._nodes.pop(path)
            self._paths[self._nodes[moved]] = moved
        return b""

    def _open(self, node: int, body: bytes) -> bytes:
        flags, _ = struct.unpack_from("<II", body)
        return self._opened(node, flags)

    def _create(self, node: int, body: bytes) -> bytes:
        flags, _, _, _ = struct.unpack_from("<4I", body)
        path = self._child(node, body[16:])
        if flags & os.O_APPEND:
            raise _unsupported()
        (self._backing / path).open("xb").close()
        entry = self._entry(path)
        return entry + self._opened(self._nodes[path], flags)

    def _opened(self, node: int, flags: int) -> bytes:
        handle = _Handle(node)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            handle.descriptor = os.open(self._file(node), os.O_RDONLY)
        elif flags & os.O_APPEND or not (flags & os.O_TRUNC or self._file(node).stat().st_size == 0):
            raise _unsupported()
        else:
            handle.written = bytearray()
        return self._register(handle, _DIRECT_IO)

    def _read(self, _node: int, body: bytes) -> bytes:
        number, offset, size = struct.unpack_from("<QQI", body)
        handle = self._handles[number]
        if handle.written is not None:
            raise _unsupported()
        return os.pread(handle.descriptor, size, offset)

    def _write(self, _node: int, body: bytes) -> bytes:
        number, offset, size = struct.unpack_from("<QQI", body)
        written = self._handles[number].written
        if written is None or offset != len(written):
            raise _unsupported()
        written += body[40 : 40 + size]
        return struct.pack("<II", size, 0)

    def _flush(self, _node: int, body: bytes) -> bytes:
        handle = self._handles[struct.unpack_from("<Q", body)[0]]
        if handle.written is not None and handle.node in self._paths:
            # Under another name first: current readers of the file keep reading its old content.
            unfinished = self._backing / f".uploading-{handle.node}"
            unfinished.write_bytes(handle.written)
            os.replace(unfinished, self._file(handle.node))
        return b""

    def _release(self, _node: int, body: bytes) -> bytes:
        handle = self._handles.pop(struct.unpack_from("<Q", body)[0])
        if handle.descriptor >= 0:
            os.close(handle.descriptor)
        return b""

    def _opendir(self, node: int, _body: bytes) -> bytes:
        entries = [(entry.name, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG) for entry in os.scandir(self._file(node))]
        names = [name for name in entries if not name[0].startswith(".uploading-")]
        return self._register(_Handle(node, names=names), 0)

    def _readdir(self, _node: int, body: bytes) -> bytes:
        number, offset, size = struct.unpack_from("<QQI", body)
        reply = b""
        for position, (name, mode) in enumerate(self._handles[number].names[offset:], offset + 1):
            encoded = os.fsencode(name)
            entry = struct.pack("<QQII", 1, position, len(encoded), mode >> 12) + encoded
            entry += bytes(-len(entry) % 8)
            if len(reply) + len(entry) > size:
                break
            reply += entry
        return reply

    _releasedir = _release

    def _statfs(self, _node: int, _body: bytes) -> bytes:
        free = 1 << 30
        return struct.pack("<5Q4I6I", free, free, free, free, free, 4096, 255, 4096, 0, *[0] * 6)

    def _child(self, node: int, name: bytes) -> str:
        return os.path.normpath(f"{self._paths[node]}/{os.fsdecode(name.rstrip(bytes(1)))}")

    def _file(self, node: int) -> Path:
        return self._backing / self._paths[node]

    def _register(self, handle: _Handle, flags: int) -> bytes:
        self._next += 1
        self._handles[self._next] = handle
        return _OPENED.pack(self._next, flags, 0)

    def _entry(self, path: str) -> bytes:
        (self._backing / path).lstat()
        if path not in self._nodes:
            self._next += 1
            self._nodes[path], self._paths[self._next] = self._next, path
        node = self._nodes[path]
        return _ENTRY.pack(node, 0, 0, 0, 0, 0) + self._attributes(node)

    def _attributes(self, node: int) -> bytes:
        status = self._file(node).lstat()
        seconds = [int(time) for time in (status.st_atime, status.st_mtime, status.st_ctime)]
        parts = [nanoseconds % 10**9 for nanoseconds in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)]
        if stat.S_ISDIR(status.st_mode):
            # Stores have no real folders, so these have no times.
            seconds, parts = [0] * 3, [0] * 3
        blocks = (status.st_size + 511) // 512
        return _ATTRIBUTES.pack(
            node, status.st_size, blocks, *seconds, *parts, status.st_mode, status.st_nlink, os.getuid(), os.getgid(), 0, 4096, 0
        )


def why_not() -> str:
    """Why such a mount is impossible here; empty if it is possible."""
    has_fuse = "\tfuse\n" in Path("/proc/filesystems").read_text()
    return "" if has_fuse else "this kernel has no FUSE, so no object store can be mounted"


@contextmanager
def object_store(folder: Path, replaces: bool = True) -> Iterator[Path]:
    """Mount a store at a new folder. Its content is removed at the end. Skips the test if mounting is impossible."""
    if why_not():
        pytest.skip(why_not())
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="store-") as backing:
        flags = [] if replaces else ["--no-replace"]
        process = subprocess.Popen([sys.executable, __file__, backing, str(folder), *flags], stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n", "no object store can be mounted; it needs root and /dev/fuse"
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=False, timeout=20)
            process.kill()
            process.communicate(timeout=20)


def main(backing: str, mount_point: str, *flags: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    pr_set_pdeathsig = 1
    libc.prctl(pr_set_pdeathsig, signal.SIGKILL)
    if not os.path.exists(_DEVICE):
        os.mknod(_DEVICE, stat.S_IFCHR | 0o600, os.makedev(10, 229))
    device = os.open(_DEVICE, os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
    if libc.mount(b"store", os.fsencode(mount_point), b"fuse", 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), mount_point)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    Store(Path(backing), replaces="--no-replace" not in flags).serve(device)


if __name__ == "__main__":
    main(*sys.argv[1:])
