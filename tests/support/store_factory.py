"""Stores of a shards folder on the loopback: a web server with faults on demand, moto's S3, and nginx with TLS."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

Fault = Callable[[int, str], object]
"""(number of the request, path) -> "" for none; "503", "403", "cut", "whole" (no ranges), "damaged"; or seconds."""


class WebStore:
    """Serves the files below `folder`, by ranges; `address` is where. `asked`: (path, range) of every GET. `tagged`:
    whether files have an ETag.
    """

    def __init__(self, folder: Path, fault: Fault = lambda number, path: "") -> None:
        self.folder, self.fault, self.tagged = folder, fault, True
        self.asked: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/shards"

    def __enter__(self) -> WebStore:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                path = self._path()
                if path is not None:
                    self._head(200, path.stat().st_size)

            def do_GET(self) -> None:
                store.asked.append((self.path, self.headers.get("Range", "")))
                path = self._path()
                if path is None:
                    return
                fault = store.fault(len(store.asked), self.path)
                if isinstance(fault, float):
                    time.sleep(fault)
                if fault in ("503", "403"):
                    self._head(int(str(fault)), 0)
                    return
                data, status = path.read_bytes(), 200
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                if asked and fault != "whole" and int(asked[1]) >= len(data):
                    self._head(416, 0)
                    return
                if asked and fault != "whole":
                    data, status = data[int(asked[1]) : int(asked[2]) + 1], 206
                if fault == "damaged" and data:
                    data = bytes([data[0] ^ 255]) + data[1:]
                self._head(status, len(data))
                with suppress(OSError):
                    self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
                if fault == "cut":
                    self.close_connection = True

            def _path(self) -> Path | None:
                path = store.folder / unquote(self.path.removeprefix("/shards/"))
                if path.is_file():
                    return path
                self._head(404, 0)
                return None

            def _head(self, status: int, size: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(size))
                self.send_header("Accept-Ranges", "bytes")
                if status == 200 and store.tagged:
                    path = store.folder / unquote(self.path.removeprefix("/shards/"))
                    self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}-{size:x}"')
                self.end_headers()

            def log_message(self, *words: Any) -> None:
                pass

        return Handler


KEYS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def s3_store(folder: Path, fault: Fault = lambda number, path: "") -> Iterator[tuple[str, dict[str, str]]]:
    """moto's server with the files of `folder` in a bucket: its address, and the environment that finds it."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    app, count, lock = DomainDispatcherApplication(create_backend_app), [0], threading.Lock()

    def failing(environ: Any, start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] == "GET":
            with lock:
                count[0] += 1
                number = count[0]
            found = fault(number, environ["PATH_INFO"])
            if isinstance(found, float):
                time.sleep(found)
            elif found:
                start_response("503 Slow Down", [("Content-Length", "0")])
                return [b""]
        return app(environ, start_response)

    class Quiet(WSGIRequestHandler):
        def log_request(self, *words: Any) -> None:
            pass

    server = make_server("127.0.0.1", 0, failing, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=KEYS["AWS_DEFAULT_REGION"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket="surgical")
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            client.upload_file(str(path), "surgical", f"shards/{path.relative_to(folder).as_posix()}")
        with lock:
            count[0] = 0
        yield "s3://surgical/shards", {**KEYS, "AWS_ENDPOINT_URL": endpoint}
    finally:
        server.shutdown()


REQUEST = (
    "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
    "-addext subjectAltName=DNS:localhost,IP:127.0.0.1"
)
NGINX = """
daemon off; master_process on; worker_processes 1; pid {at}/pid; error_log {at}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
    uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi; keepalive_requests 100000;
    split_clients "$request_id" $fails {{ {fails}% 1; * 0; }}
    split_clients "slow $request_id" $rate {{ {slow}% 4k; * 0; }}
    server {{
        listen 127.0.0.1:{port} ssl; ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem;
        location /shards/ {{
            alias {folder}/;
            if ($fails) {{ return 503; }}
            limit_rate $rate;
        }}
    }}
}}
"""


@contextmanager
def https_store(
    folder: Path, at: Path, fails_percent: float = 0.0, slow_percent: float = 0.0
) -> Iterator[tuple[str, dict[str, str]]]:
    """nginx with TLS: its address, and the environment that trusts it. `at`: a folder for its files, without spaces."""
    program = nginx()
    assert program is not None, "no nginx here"
    at.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [*REQUEST.split(), "-keyout", at / "key.pem", "-out", at / "cert.pem"],
        check=True,
        capture_output=True,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = NGINX.format(at=at, folder=folder, port=port, fails=fails_percent, slow=slow_percent)
    # 0 % is none, which nginx has no word for.
    (at / "nginx.conf").write_text(re.sub(r" 0\.0% \w+;", "", text))
    if os.geteuid() == 0:
        text = (at / "nginx.conf").read_text()
        (at / "nginx.conf").write_text("user root;" + text)
    process = subprocess.Popen(
        [program, "-c", str(at / "nginx.conf"), "-e", str(at / "error.log")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, (at / "error.log").read_text()
            time.sleep(0.05)
        yield f"https://localhost:{port}/shards", {"SSL_CERT_FILE": str(at / "cert.pem")}
    finally:
        process.terminate()
        process.wait(10)


def nginx() -> str | None:
    """The program, where it is installed."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
