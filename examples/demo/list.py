#!/usr/bin/env python3
"""list: turns one `audit.requested` into one `audit.started` and one `file.found` per file.

Contract (runner `exec`, output `events`): the event's data is on stdin, every line on stdout is an
event to publish, and the exit code settles the delivery: 0 = ack, 75 = nack (try again), 65 = reject.

  stdin   {"input": "/folder", "report": "/path/report.md", "run": "any id"}   run: default the event's id
  stdout  {"to": "audit.started", "data": {"run", "input", "report", "count"}}
          {"to": "file.found",    "data": {"run", "input", "report", "index", "path", "kind"}}   count times

The files are those `git grep` looks at, plus the tracked symbolic links (kind "link": only their target
is checked). A folder outside any git repository is walked, without `.git`. `path` is relative to input;
a name that is not UTF-8 has its bytes in `path_base64`. A tracked file that git was told to assume
unchanged carries `blob`, for git grep reads that instead of the file.
"""
import base64
import json
import os
import stat
import subprocess
import sys

ACK, REJECT, TRY_AGAIN = 0, 65, 75


def tracked(folder):
    """Returns [(path, kind, blob or None)] of a git work tree, or None when the folder is in none."""
    command = [b"git", b"-C", folder, b"ls-files", b"-z", b"--stage", b"-v"]
    try:
        git = subprocess.run(command, capture_output=True, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError:
        return None
    if git.returncode:
        reason = git.stderr.decode("utf-8", "replace").strip().splitlines()[:1]
        if b"not a git repository" in git.stderr or b"must be run in a work tree" in git.stderr:
            return None
        raise OSError(f"git ls-files: {' '.join(reason)}")
    files = {}                                         # a path in a merge conflict has up to three entries
    for entry in filter(None, git.stdout.split(b"\0")):
        facts, path = entry.split(b"\t", 1)            # "H 100644 <blob> <stage>"
        tag, mode, blob, _stage = facts.split(b" ")
        if path in files or tag in b"Ss" or mode == b"160000":
            continue                                   # left out of the work tree on purpose; a submodule
        unchanged = tag == b"h" and mode.startswith(b"100")
        kind = "file" if unchanged else kind_on_disk(os.path.join(folder, path))
        if kind:
            kind = kind if mode.startswith(b"100") else "link"
            files[path] = (path, kind, blob.decode() if unchanged else None)
    return list(files.values())


def kind_on_disk(path):
    """Returns "file", "link", or None for what git grep passes over: deleted, a folder, a device."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return "file"                                  # not ours to hide: check will say why it cannot be read
    return "link" if stat.S_ISLNK(mode) else "file" if stat.S_ISREG(mode) else None


def walked(folder, report):
    """Returns the same for a plain folder; the report of an earlier run and its journal are not input."""
    def refuse(error):
        raise error

    files = []
    for here, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if name != b".git"]
        for name in names + folders:
            path = os.path.join(here, name)
            kind = kind_on_disk(path)
            if kind and name != b".git" and path != report and not path.startswith(report + b"."):
                files.append((os.path.relpath(path, folder), kind, None))
    return files


def event(to, **data):
    print(json.dumps({"to": to, "data": data}))


def main():
    try:
        data = json.load(sys.stdin)
        folder, report = data["input"], data["report"]
        run = data.get("run") or os.environ["AGENTBUS_EVENT_ID"]
        if not (isinstance(run, str) and os.path.isabs(folder) and os.path.isabs(report)):
            raise ValueError("run is a string, input and report are absolute paths")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return REJECT, f"not an audit request: {error!r}"
    if not os.path.isdir(folder):
        return REJECT, f"no such folder: {folder}"
    if not os.access(os.path.dirname(report), os.W_OK):
        return REJECT, f"the report's folder cannot be written: {os.path.dirname(report)}"
    try:
        files = tracked(folder.encode())
        if files is None:
            files = walked(folder.encode(), report.encode())
    except OSError as error:
        return TRY_AGAIN, f"cannot list {folder}: {error}"
    about = {"run": run, "input": folder, "report": report}
    event("audit.started", **about, count=len(files))
    for index, (path, kind, blob) in enumerate(sorted(files)):
        more = {"blob": blob} if blob else {}
        try:
            name = path.decode()
        except UnicodeDecodeError:
            name = path.decode("utf-8", "backslashreplace")
            more["path_base64"] = base64.b64encode(path).decode()
        event("file.found", **about, index=index, path=name, kind=kind, **more)
    return ACK, None


if __name__ == "__main__":
    code, complaint = main()
    if complaint:
        print("list:", " ".join(complaint.split()), file=sys.stderr)
    sys.exit(code)
