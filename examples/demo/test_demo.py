"""Tests of the demo's scripts without the bus: they are run as their runner runs them. Needs git; takes seconds.

    python3 -m unittest examples/demo/test_demo.py
"""
import json
import os
import subprocess
import sys
import tempfile
import unittest

DEMO = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, DEMO)
import report  # noqa: E402


def git(folder, *arguments):
    who = ["-c", "user.name=demo", "-c", "user.email=demo@localhost", "-c", "protocol.file.allow=always"]
    return subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True).stdout


def run(script, data):
    """Runs an exec agent; returns (exit code, events, stderr)."""
    done = subprocess.run([sys.executable, os.path.join(DEMO, script)], input=json.dumps(data).encode(),
                          capture_output=True, cwd=DEMO)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def awkward(repo):
    """Makes a repository in which every file is a trap for a naive count."""
    git(repo, "init", "-q")
    files = {b"plain.py": b"# TODO one\nx\n# FIXME TODO counts once\n", b"no newline": b"a\nTODO",
             b"binary.dat": b"TODO\0\nFIXME\0TODO\nx\n", b"latin.txt": b"\xff\xfe FIXME \xe9\nTODO\xff\n", b"empty": b"",
             b"old-mac": b"TODO\rTODO\r", b"undiffed.x": b"TODO\n", b".gitattributes": b"*.x -diff\n*.dat binary\n",
             b"odd:1:name\n\ttab `x`": b"TODO\n", b"byte\xff": b"TODO\n", b"sparse": b"TODO\n", b"blob": b"TODO\n",
             b"deleted": b"TODO\n", b"turned": b"TODO\n", b".gitignore": b"ignored\n", b"d/copy.py": b"same\n", b"copy": b"same\n",
             b"d/read me.MD": b"[a](../plain.py#x) [b](gone.md) ![c](<../no newline>) [d](http://x/y) [e](#z) `[f](g)`\n"
                             b"~~~\n[in](code.md)\n~~~\n[r]: lost/file%20s.txt \"t\"\n[^1]: note\n"}
    os.mkdir(os.path.join(repo, "d"))
    for name, content in files.items():
        with open(os.path.join(repo.encode(), name), "wb") as out:
            out.write(content)
    os.symlink("plain.py", os.path.join(repo, "link"))
    os.symlink("d", os.path.join(repo, "folder-link"))
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "all")
    git(repo, "submodule", "--quiet", "add", repo, "sub")
    git(repo, "update-index", "--skip-worktree", "sparse")
    git(repo, "update-index", "--assume-unchanged", "blob")
    for name in ("blob", "untracked", "ignored", "plain.py"):
        with open(os.path.join(repo, name), "a") as out:
            out.write("TODO later\n")
    for name in ("deleted", "turned"):
        os.remove(os.path.join(repo, name))
    os.symlink("plain.py", os.path.join(repo, "turned"))


def grep_count(repo):
    counts = git(repo, "grep", "-zcE", "TODO|FIXME").splitlines()     # <path> NUL <count>
    return sum(int(line.rsplit(b"\0")[-1]) for line in counts if b"\0" in line)


class Demo(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.repo, self.out = os.path.join(self.folder.name, "repo"), os.path.join(self.folder.name, "report.md")
        os.mkdir(self.repo)
        self.posts = []
        self.addCleanup(setattr, report, "call", report.call)
        report.call = lambda path, body: (self.posts.append((path, body)), (200, {}))[1]

    def audit(self, name="r1"):
        _, found, _ = run("list.py", {"input": self.repo, "run": name, "report": self.out})
        checked = []
        for event in found[1:]:
            code, events, complaint = run("check.py", event["data"])
            self.assertEqual((code, complaint), (0, ""))
            checked += events
        self.assertEqual(found[0]["data"]["count"], len(checked))
        return found[:1] + checked

    def deliver(self, events):
        runs = {}                                                    # as after a start: nothing in memory
        for event in events:
            report.handle({"delivery_id": "d", "event": event}, runs)
        if os.path.exists(self.out):
            with open(self.out, "rb") as file:
                return file.read()

    def completed(self):
        return [event["data"] for _, body in self.posts for event in body.get("emit", [])]

    def test_counts_markers_as_git_grep_does(self):
        awkward(self.repo)
        events = self.audit()
        text = self.deliver(events)
        [result] = self.completed()
        self.assertEqual(result["markers"], grep_count(self.repo))
        self.assertEqual((result["broken_links"], result["duplicate_groups"]), (2, 2))
        self.assertIn(b"d/read me.MD:1: gone.md\nd/read me.MD:5: lost/file%20s.txt\n", text)
        self.assertIn(b"byte\\xff:1: TODO\n", text)

    def test_report_does_not_depend_on_order_repetition_or_crashes(self):
        awkward(self.repo)
        events = self.audit()
        first = self.deliver(events)
        again = [{**event, "data": {**event["data"], "run": "r2"}} for event in reversed(events)]
        self.deliver(again[:5] + again[:3])
        with open(self.out + ".journal.ndjson", "ab") as journal:
            journal.write(b'{"run": "r2", "path": "to')              # killed while writing
        self.assertEqual(self.deliver(again[4:]), first)
        self.deliver(again[-2:])                                 # late repetitions
        self.assertEqual([result["run"] for result in self.completed()], ["r1", "r2"])
        with open(self.out + ".journal.ndjson") as journal:
            self.assertEqual([json.loads(line) for line in journal], [{"run": r, "done": True} for r in ("r1", "r2")])

    def test_announces_again_when_the_ack_was_lost(self):
        events = [{"data": {"run": "r", "report": self.out, "input": self.repo, "count": 0}}]
        report.call = lambda path, body: (self.posts.append((path, body)), (409, {"detail": "LEASE_LOST"}))[1]
        self.deliver(events * 2)
        self.assertEqual([result["files"] for result in self.completed()], [0, 0])

    def test_what_cannot_be_read_is_tried_again_and_can_be_repaired(self):
        for name in ("link", "file"):
            os.symlink("missing", os.path.join(self.repo, name))
            found = {"run": "r", "input": self.repo, "report": self.out, "index": 0, "path": name, "kind": name}
            code, events, complaint = run("check.py", found)
            self.assertEqual((code, events), (75, []))
            self.assertEqual(complaint, f"check: cannot read {name}: No such file or directory\n")
        with open(os.path.join(self.repo, "missing"), "w"):
            self.assertEqual(run("check.py", found)[0], 0)

    def test_walks_a_plain_folder_and_refuses_nonsense(self):
        for name in ("b", "a"):
            with open(os.path.join(self.repo, name), "w") as file:
                file.write("TODO\n")
        self.out = os.path.join(self.repo, "report.md")
        for name in ("r1", "r2"):                                    # the second does not see the report of the first
            self.assertEqual([event["data"].get("path") for event in self.audit(name)], [None, "a", "b"])
            self.deliver(self.audit(name))
        for data in ([], {"input": "/nowhere/at/all", "report": self.out, "run": "r"}, {"input": 1, "report": "x"}):
            self.assertEqual(run("list.py", data)[0], 65)
        self.assertEqual(run("check.py", {"path": "x"})[0], 65)
        report.handle({"delivery_id": "d", "event": {"data": "?"}}, {})
        self.assertTrue(self.posts[-1][0].endswith("/reject"))


if __name__ == "__main__":
    unittest.main()
