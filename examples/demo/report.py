#!/usr/bin/env python3
"""report: gathers what `check` found and writes the report when the run is complete.

Contract (runner `process`): the agent talks plain HTTP to its sidecar, AGENTBUS_URL with AGENTBUS_TOKEN.

  POST /v1/receive                {"max", "wait"}   waits for deliveries
  POST /v1/deliveries/ID/ack      {"emit": [...]}   done; the emitted events are published in the same step
  POST /v1/deliveries/ID/nack     {"reason"}        not now
  POST /v1/deliveries/ID/reject   {"reason"}        never

Delivery is at least once, so the rule is: keep first, ack afterwards. Each fact is a line of the journal
`<report>.journal.ndjson`, on disk before its ack, replayed after a crash. Facts are keyed by run and path: an
event seen twice changes nothing. When a run has as many paths as `audit.started` counted, the report is put
in place (temporary file, rename) and the ack publishes

  {"to": "audit.completed", "data": {"run", "report", "files", "markers", "broken_links", "duplicate_groups"}}

A crash just before that ack publishes it again, with the same data. `ordered: true` and one replica: one writer.
"""
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request

import render

PATIENCE_SECONDS, PAUSE_SECONDS_MAX = 300, 5           # for a sidecar that is away; then the supervisor decides
STARTED = {"run", "report", "input", "count"}
CHECKED = {"run", "report", "path", "size", "sha256", "marker_count", "markers", "broken_link_count", "broken_links"}
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(path, body):
    """Posts JSON; returns (status, answer). Waits out a sidecar that is away, draining or without its broker."""
    headers = {"Authorization": "Bearer " + os.environ["AGENTBUS_TOKEN"], "Content-Type": "application/json"}
    url, payload = os.environ["AGENTBUS_URL"].rstrip("/") + path, json.dumps(body).encode()
    pause, give_up = 0.1, time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with DIRECT.open(urllib.request.Request(url, payload, headers), timeout=40) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            with error:
                why = f"{error.code} {error.read(500).decode('utf-8', 'replace')}"
            if error.code in (401, 403):
                sys.exit(f"report: {path}: {why}")
            if error.code != 429 and error.code < 500:
                return error.code, {"detail": why}
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = repr(error)
        if time.monotonic() > give_up:
            sys.exit(f"report: giving up on {path}: {why}")
        time.sleep(pause)
        pause = min(pause * 2, PAUSE_SECONDS_MAX)


def settle(delivery, verb, body):
    """Returns whether it counted. A lost lease is no harm: the event comes again, and the journal knows it."""
    status, answer = call(f"/v1/deliveries/{delivery['delivery_id']}/{verb}", body)
    if status >= 400:
        print(f"report: {verb} did not count: {answer['detail']}", file=sys.stderr)
    return status < 400


class Run:
    """What is known of one run, as the journal has it."""

    def __init__(self, report, run):
        self.journal = report + ".journal.ndjson"
        self.run, self.started, self.checked, self.done = run, None, {}, False
        for fact in read_journal(self.journal):
            if fact["run"] == run:
                self.learn(fact)

    def learn(self, fact):
        self.done = self.done or "done" in fact
        if "count" in fact:
            self.started = fact
        elif "path" in fact:
            self.checked[fact["path"], fact.get("path_base64")] = fact

    def keep(self, fact):
        """Writes the fact through to the disk, then takes it over."""
        with open(self.journal, "ab") as journal:
            journal.write(json.dumps(fact).encode() + b"\n")
            journal.flush()
            os.fsync(journal.fileno())
        self.learn(fact)

    def complete(self):
        return self.started is not None and len(self.checked) >= self.started["count"]

    def forget(self):
        """The run is over: one line of the journal is left of it, so that a late repetition changes nothing."""
        rest = [fact for fact in read_journal(self.journal) if fact["run"] != self.run]
        lines = [json.dumps(fact) + "\n" for fact in rest + [{"run": self.run, "done": True}]]
        render.replace(self.journal, "".join(lines))
        self.started, self.checked, self.done = None, {}, True


def read_journal(path):
    """Returns the facts. A last line torn by a crash was never acked: it is cut off, its event comes again."""
    if not os.path.exists(path):
        return []
    with open(path, "r+b") as journal:
        content = journal.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            journal.truncate(whole)
    return [json.loads(line) for line in content[:whole].splitlines()]


def handle(delivery, runs):
    """Keeps the fact of one delivery, finishes the run when it was the last one, and settles."""
    fact = delivery["event"].get("data")
    known = isinstance(fact, dict) and (STARTED <= fact.keys() or CHECKED <= fact.keys())
    if not (known and isinstance(fact["report"], str) and isinstance(fact["run"], str)):
        return settle(delivery, "reject", {"reason": "neither audit.started nor file.checked"})
    key, emit = (fact["report"], fact["run"]), []
    try:
        run = runs[key] = runs.get(key) or Run(*key)
        if not run.done:
            run.keep(fact)
        finish = run.complete() and not run.done
        if finish:
            emit = [{"to": "audit.completed", "data": render.write(run.started, list(run.checked.values()))}]
        counted = settle(delivery, "ack", {"emit": emit} if emit else {})
        if finish and counted:
            run.forget()
            print(f"report: {fact['report']} is complete", file=sys.stderr)
    except OSError as error:
        runs.pop(key, None)                            # what is on disk decides
        settle(delivery, "nack", {"reason": f"cannot keep it: {error}"})


def main():
    runs = {}
    while True:
        status, answer = call("/v1/receive", {"max": 16, "wait": "20s"})
        if status != 200:
            sys.exit(f"report: cannot receive: {answer['detail']}")
        for delivery in answer.get("deliveries", []):
            handle(delivery, runs)


if __name__ == "__main__":
    main()
