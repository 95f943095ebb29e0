"""A small disk that fills up."""

import contextlib
import os
import subprocess


@contextlib.contextmanager
def tiny_disk(folder, kilobytes):
    """Mount a small file system at `folder`. Yields a command prefix for programs that should see it.

    As root, mounts it directly. Other users get their own mount namespace, which most Linux machines permit.
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
