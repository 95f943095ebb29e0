"""A disk that fills up."""

import contextlib
import os
import subprocess


@contextlib.contextmanager
def tiny_disk(folder, kilobytes):
    """Mounts a small file system at `folder` for processes started inside; gives the words to start them with.

    Root mounts it here. Others get a mount name space of their own, which needs no rights on most Linux machines.
    """
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.getuid() == 0:
        subprocess.run(["mount", *options], check=True, timeout=20)
        try:
            yield []
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=20)
    else:
        yield ["unshare", "-rm", "sh", "-c", 'mount "$@" && shift 5 && exec "$@"', "sh", *options]
