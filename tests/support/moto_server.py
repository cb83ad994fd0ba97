"""moto's engines over HTTP in a process of its own: `python -m tests.support.moto_server PORT [DELAYS]`.

Hosted on gevent, in one process without threads: moto's own threaded server is not atomic and lets
two writers win one conditional write. Port 0 takes a free one; the port is printed.
DELAYS is JSON, the milliseconds by which each call to a service is held back: `{"s3": 20, "dynamodb": 5}`.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402  what is patched must be imported after the patch
import socket  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

from gevent.pywsgi import WSGIServer  # noqa: E402
from moto.server import DomainDispatcherApplication, create_backend_app  # noqa: E402


class Server(WSGIServer):
    def handle(self, sock, address):
        # Without it every small answer waits some 40 ms for the acknowledgement of its header.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().handle(sock, address)


def delayed(application, delays_ms):
    """The application as from far away."""

    def call(environ, start_response):
        time.sleep(delays_ms.get(service_of(environ), 0) / 1000)
        return application(environ, start_response)

    return call


def service_of(environ) -> str:
    """By the header in which services that speak JSON name their operation: S3 has none."""
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if not target:
        return "s3"
    return "cognito" if "Cognito" in target else "dynamodb"


def main() -> None:
    application = DomainDispatcherApplication(create_backend_app)
    delays_ms = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    server = Server(("127.0.0.1", int(sys.argv[1])), delayed(application, delays_ms), log=None)
    server.start()
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
