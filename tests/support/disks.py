"""A disk that fills up."""

import contextlib
import os
import subprocess


@contextlib.contextmanager
def tiny_disk(folder, kilobytes):
    """Mounts a small file system at `folder`; gives the words that start a program which shall see it.

    Root mounts it here. Others get a name space of their own for mounts, which most Linux machines grant.
    """
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs"]
    if os.getuid() != 0:
        yield ["unshare", "--map-root-user", "--mount", "sh", "-c", f'{" ".join(mount)} "$0" && exec "$@"', str(folder)]
        return
    subprocess.run([*mount, str(folder)], check=True, timeout=20)
    try:
        yield []
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=20)
