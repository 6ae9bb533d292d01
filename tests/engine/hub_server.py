"""A hub on this machine: as much of its protocol as pushing and fetching a model takes, in memory."""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

TOKEN = "hf_theTokenOfTheTests"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a list of commits; a commit is the files by name."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.repositories, self.private, self.stored = {}, {}, {}
        self.asked, self.refused = [], {}
        self.large = False
        """Files go through the storage of large files, as the hub has it, or with the commit."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_words):
        pass

    def answer(self, content=b"", status=200, head=False, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def refuses(self):
        """Answer what the test wants refused; True if so."""
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization")))
        for part, status in self.server.refused.items():
            if part in self.path:
                told = {"error": f"no, {self.headers.get('Authorization')}"}
                self.answer(told, status, head=self.command == "HEAD")
                return True
        return False

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def do_GET(self):
        if self.refuses():
            return
        if self.path == "/api/whoami-v2":
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            self.answer({"name": "me", "type": "user"} if known else {"error": "who"}, 200 if known else 401)
        elif "/resolve/" in self.path:
            self.file()
        else:
            self.answer({"error": "not found"}, 404)

    def do_HEAD(self):
        self.do_GET()

    def file(self):
        """A file of a revision, `main` or the number of a commit."""
        name, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        commits = self.server.repositories.get(name)
        head = self.command == "HEAD"
        if commits is None:
            self.answer(status=404, head=head, X_Error_Code="RepoNotFound")
            return
        named = {"main": len(commits) - 1} | {commit_id(k): k for k in range(len(commits))}
        if revision not in named or not commits:
            self.answer(status=404, head=head, X_Error_Code="RevisionNotFound")
            return
        if file not in commits[named[revision]]:
            self.answer(status=404, head=head, X_Error_Code="EntryNotFound", X_Repo_Commit=commit_id(named[revision]))
            return
        content = commits[named[revision]][file]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.answer(content, head=head, X_Repo_Commit=commit_id(named[revision]), ETag=etag)

    def do_PUT(self):
        content = self.body()
        if not self.refuses():
            self.server.stored[hashlib.sha256(content).hexdigest()] = content
            self.answer()

    def do_POST(self):
        content = self.body()
        if self.refuses():
            return
        if self.path == "/api/repos/create":
            told = json.loads(content)
            name = f"{told.get('organization') or 'me'}/{told['name']}"
            fresh = name not in self.server.repositories
            self.server.repositories.setdefault(name, [])
            self.server.private.setdefault(name, told.get("private") or told.get("visibility") == "private")
            self.answer({"url": f"{self.server.url}/{name}"}, 200 if fresh else 409)
        elif "/preupload/" in self.path:
            mode = "lfs" if self.server.large else "regular"
            names = [each["path"] for each in json.loads(content)["files"]]
            modes = {name: mode if name.endswith(".safetensors") else "regular" for name in names}
            files = [{"path": name, "uploadMode": modes[name], "shouldIgnore": False} for name in names]
            self.answer({"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            actions = [
                {**each, "actions": {"upload": {"href": f"{self.server.url}/store/{each['oid']}"}}}
                for each in json.loads(content)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": actions})
        elif "/commit/" in self.path:
            self.commit(content)
        else:
            self.answer({})  # the check of the card's YAML

    def commit(self, content):
        name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
        commits = self.server.repositories[name]
        files = dict(commits[-1]) if commits else {}
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
        commits.append(files)
        oid = commit_id(len(commits) - 1)
        self.answer({"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid})


def commit_id(number):
    return f"{number + 1:040x}"


@contextlib.contextmanager
def serving():
    """A hub that runs while the context lasts."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


@contextlib.contextmanager
def on_this_machine(folder, monkeypatch, token=TOKEN):
    """A hub that runs, as the only one that the library knows, with an empty cache in `folder`."""
    constants = pytest.importorskip("huggingface_hub.constants")
    for name, value in {"HF_HUB_CACHE": folder / "hub", "HF_TOKEN_PATH": folder / "token"}.items():
        monkeypatch.setattr(constants, name, str(value))
    for name, value in {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(constants, name, value, raising=False)  # earlier versions have no xet
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
