# SPDX-License-Identifier: BSD-2-Clause
"""The file a guest downloads: random bytes from a small HTTP server on the host."""

import hashlib
import http.server
import os
import threading

__all__ = ["ContentServer"]


class ContentServer:
    """Serves ``size`` random bytes at :attr:`path` on a free port of ``address``."""

    path = "/random"

    def __init__(self, size=1 << 20, address="127.0.0.1"):
        content = os.urandom(size)
        self.size = size
        self.sha256 = hashlib.sha256(content).hexdigest()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                """Stay silent."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64            # a guest may ask on many connections at once

        self._server = Server((address, 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
