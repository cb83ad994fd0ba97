"""moto's engines over HTTP in a process of its own: `python -m tests.support.moto_server PORT`.

Hosted on gevent, in one process without threads: moto's own threaded server is not atomic and lets
two writers win one conditional write. Port 0 takes a free one; the port is printed.
"""

from gevent import monkey

monkey.patch_all()

import socket  # noqa: E402  what is patched must be imported after the patch
import sys  # noqa: E402

from gevent.pywsgi import WSGIServer  # noqa: E402
from moto.server import DomainDispatcherApplication, create_backend_app  # noqa: E402


class Server(WSGIServer):
    def handle(self, sock, address):
        # Without it every small answer waits some 40 ms for the acknowledgement of its header.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().handle(sock, address)


def main() -> None:
    server = Server(
        ("127.0.0.1", int(sys.argv[1])), DomainDispatcherApplication(create_backend_app), log=None
    )
    server.start()
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
