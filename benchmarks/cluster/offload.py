"""Switch an interface's checksum offload, and with it the segmentation of large packets, on or off.

python -m benchmarks.cluster.offload INTERFACE 0|1
"""

import ctypes
import fcntl
import socket
import struct
import sys

# linux/sockios.h and linux/ethtool.h
_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17


def main(interface: str, on: int) -> None:
    value = ctypes.create_string_buffer(struct.pack("II", _ETHTOOL_STXCSUM, on))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, struct.pack("16sP", interface.encode(), ctypes.addressof(value)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
