"""The driver of `cluster.Cluster`: opens a Spark session and runs the functions it receives through a socket.

python -m benchmarks.cluster.driver FILE_DESCRIPTOR
"""

import sys
from multiprocessing.connection import Connection

import cloudpickle

from pipelines.launch.session import open_session


def main(connection: Connection) -> None:
    with open_session("hosts") as spark:
        while True:
            try:
                function, arguments = cloudpickle.loads(connection.recv_bytes())
            except EOFError:
                return
            try:
                answer = (True, function(spark, *arguments))
            except Exception as error:
                answer = (False, (type(error).__name__, str(error)))
            connection.send_bytes(cloudpickle.dumps(answer))


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
