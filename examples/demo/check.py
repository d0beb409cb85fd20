#!/usr/bin/env python3
"""check: looks into one file and says what it found.

Contract (runner `exec`, output `events`): the event's data is on stdin, every line on stdout is an
event to publish, and the exit code settles the delivery: 0 = ack, 75 = nack (try again), 65 = reject.

  stdin   the data of `file.found`, see list.py
  stdout  {"to": "file.checked", "data": {"run", "report", "path", "size", "sha256",
           "marker_count", "markers": [{"line", "text"}],          at most MARKERS_MAX are shown, all are counted
           "broken_link_count", "broken_links": [{"line", "target"}]}}

A marker is a line with TODO or FIXME, exactly as `git grep -cE 'TODO|FIXME'` counts lines: bytes between
newlines, binary files included, symbolic links not followed. What cannot be read now (vanished, no
permission, a link that leads nowhere) is one line on stderr and exit 75: tried again, then a dead letter,
and after a repair `redrive` brings it back. The same file always gives the same event.
"""
import base64
import hashlib
import io
import json
import os
import re
import stat
import sys
from urllib.parse import unquote_to_bytes

ACK, REJECT, TRY_AGAIN = 0, 65, 75
MARKERS_MAX, LINKS_MAX, TEXT_CHARS_MAX = 300, 200, 120     # keeps the event far below 1 MiB
FENCE = re.compile(rb" {0,3}(```+|~~~+)")
CODE = re.compile(rb"(`+)(?!`).*?(?<!`)\1(?!`)")
INLINE = re.compile(rb"\]\(\s*(<[^<>]*>|[^\s()<>]*(?:\([^\s()]*\)[^\s()]*)*)")
REFERENCE = re.compile(rb" {0,3}\[(?!\^)[^\]]+\]:\s*(<[^<>]*>|\S+)")
ELSEWHERE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*:|[#/{]|$")   # a URL, a heading of the page, a site path, a template


def text(raw):
    return raw[: 4 * TEXT_CHARS_MAX].decode("utf-8", "replace")[:TEXT_CHARS_MAX]


def broken_links(line, folder):
    """Yields the relative link targets of one Markdown line that do not exist."""
    line = CODE.sub(b"", line)
    for target in INLINE.findall(line) + REFERENCE.findall(line)[:1]:
        target = target.strip(b"<>")
        path = unquote_to_bytes(re.split(rb"[#?]", target)[0])
        if not ELSEWHERE.match(target) and not os.path.exists(os.path.join(folder, path)):
            yield text(target)


def inspect(content, path):
    """Reads an open file once, line by line; returns what `file.checked` says about it."""
    markdown = path.lower().endswith((b".md", b".markdown"))
    digest, size, fence = hashlib.sha256(), 0, None
    markers, marker_count, links, link_count = [], 0, [], 0
    for number, line in enumerate(content, 1):
        digest.update(line)
        size += len(line)
        if b"TODO" in line or b"FIXME" in line:
            marker_count += 1
            if marker_count <= MARKERS_MAX:
                markers.append({"line": number, "text": text(line.strip())})
        if not markdown:
            continue
        edge = FENCE.match(line)
        if edge and (fence is None or edge[1].startswith(fence)):
            fence = edge[1] if fence is None else None
        elif fence is None:
            for target in broken_links(line, os.path.dirname(path)):
                link_count += 1
                if link_count <= LINKS_MAX:
                    links.append({"line": number, "target": target})
    return {"size": size, "sha256": digest.hexdigest(), "marker_count": marker_count, "markers": markers,
            "broken_link_count": link_count, "broken_links": links}


def git_blob(folder, blob):
    import subprocess                                  # rare, and this process starts once per file
    git = subprocess.run(["git", "-C", folder, "cat-file", "blob", blob], capture_output=True)
    if git.returncode:
        raise OSError(f"git has no blob {blob}")
    return io.BytesIO(git.stdout)


def check(found, path):
    """Returns the findings of one file; OSError when it cannot be read now."""
    if found.get("blob"):
        return inspect(git_blob(found["input"], found["blob"]), path)
    mode = os.lstat(path).st_mode
    if found["kind"] == "link" or stat.S_ISLNK(mode):
        os.stat(path)                                  # follows it: fails when it leads nowhere
        return {**inspect(io.BytesIO(), b""), "sha256": None}
    if not stat.S_ISREG(mode):
        raise OSError("no longer a regular file")
    with open(path, "rb") as content:
        return inspect(content, path)


def main():
    try:
        found = json.load(sys.stdin)
        same = {key: found[key] for key in ("run", "report", "path", "path_base64") if key in found}
        name = base64.b64decode(found["path_base64"]) if "path_base64" in found else found["path"].encode()
        path = os.path.join(found["input"].encode(), name)
        found["kind"], found["run"], found["report"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return REJECT, f"not a file.found event: {error!r}"
    try:
        findings = check(found, path)
    except OSError as error:
        return TRY_AGAIN, f"cannot read {found['path']}: {error.strerror or error}"
    print(json.dumps({"to": "file.checked", "data": {**same, **findings}}))
    return ACK, None


if __name__ == "__main__":
    code, complaint = main()
    if complaint:
        print("check:", " ".join(complaint.split()), file=sys.stderr)
    sys.exit(code)
