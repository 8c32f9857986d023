"""A registry of one image for tests: serves a docker-archive's image by the distribution API, optionally behind
basic authentication through a token service.

Usage: registry.py ARCHIVE ADDRESS [USER PASSWORD]

FAULT in the environment spoils it: `platform` (an index that has only another architecture), `layer` (a byte of
the layer is another than its digest says), `short` (the connection breaks in the middle of the layer), `gzip` (the
layer's digest is right, but it is no gzip), `unpacked` (it unpacks to something else than the configuration says).
"""

import base64
import gzip
import hashlib
import http.server
import json
import os
import sys
import tarfile

archive, address = sys.argv[1:3]
credentials = sys.argv[3:5]
fault = os.environ.get("FAULT", "")
blobs = {}


def keep(data):
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    blobs[digest] = data
    return {"digest": digest, "size": len(data)}


with tarfile.open(archive) as tar:
    read = lambda name: tar.extractfile(name).read()
    entry = json.loads(read("manifest.json"))[0]
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", **keep(read(entry["Config"]))}
    gzipped = "application/vnd.oci.image.layer.v1.tar+gzip"
    tars = [read(name) for name in entry["Layers"]]
    if fault == "unpacked":
        tars = [data[:512] + bytes(1024) for data in tars]
    packed = [gzip.compress(data, 1, mtime=0) for data in tars]
    if fault == "gzip":
        packed = [b"this is no gzip" for _ in packed]
    layers = [{"mediaType": gzipped, **keep(data)} for data in packed]

KIND = "application/vnd.oci.image.manifest.v1+json"
manifest = json.dumps({"schemaVersion": 2, "mediaType": KIND, "config": config, "layers": layers}).encode()
KINDS = {"1": KIND}
manifests = {"1": manifest, keep(manifest)["digest"]: manifest}
if fault == "platform":
    KINDS["1"] = "application/vnd.oci.image.index.v1+json"
    other = {"mediaType": KIND, **keep(manifest), "platform": {"architecture": "s390x", "os": "linux"}}
    manifests["1"] = json.dumps({"schemaVersion": 2, "mediaType": KINDS["1"], "manifests": [other]}).encode()
if fault == "layer":
    for layer in layers:
        data = bytearray(blobs[layer["digest"]])
        data[len(data) // 2] ^= 1
        blobs[layer["digest"]] = bytes(data)


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, code, data=b"", kind="application/json", headers=()):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self):
        path = self.path.split("?")[0]
        given = self.headers.get("Authorization", "")
        if path == "/token":
            wanted = "Basic " + base64.b64encode(":".join(credentials).encode()).decode()
            if given != wanted:
                return self.answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}')
            return self.answer(200, json.dumps({"token": "let-in"}).encode())
        if credentials and given != "Bearer let-in":
            realm = f'Bearer realm="http://{address}/token",service="tests",scope="repository:tests/busybox:pull"'
            return self.answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', headers=[("WWW-Authenticate", realm)])
        if path == "/v2/":
            return self.answer(200, b"{}")
        kind, _, reference = path.removeprefix("/v2/tests/busybox/").partition("/")
        if kind == "manifests" and reference in manifests:
            data = manifests[reference]
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            return self.answer(200, data, KINDS.get(reference, KIND), [("Docker-Content-Digest", digest)])
        if kind == "blobs" and fault == "short" and any(reference == layer["digest"] for layer in layers):
            self.send_response(200)
            self.send_header("Content-Length", str(len(blobs[reference])))
            self.end_headers()
            self.wfile.write(blobs[reference][: len(blobs[reference]) // 2])
            self.close_connection = True
            return None
        if kind == "blobs" and reference in blobs:
            return self.answer(200, blobs[reference], "application/octet-stream")
        self.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')

    do_HEAD = do_GET


port = address.rsplit(":", 1)[1]
http.server.ThreadingHTTPServer(("0.0.0.0", int(port)), Registry).serve_forever()
