"""render: the findings of a run as Markdown. The same findings give the same bytes: sorted, no times, no ids."""
import os


def write(started, checked):
    """Puts the report in place and returns the data of `audit.completed`."""
    checked = sorted(checked, key=lambda file: file["path"])
    totals = {
        "files": len(checked),
        "markers": sum(file["marker_count"] for file in checked),
        "broken_links": sum(file["broken_link_count"] for file in checked),
        "duplicate_groups": len(duplicates(checked)),
    }
    replace(started["report"], markdown(started["input"], totals, checked))
    return {"run": started["run"], "report": started["report"], **totals}


def replace(path, content):
    """Writes a file so that a reader, or a crash, sees the old one or the new one, never a half."""
    with open(path + ".tmp", "w", encoding="utf-8", newline="\n") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    os.replace(path + ".tmp", path)


def duplicates(checked):
    """Returns the groups of files with the same contents; empty files are not worth a word."""
    same = {}
    for file in checked:
        if file["size"]:
            same.setdefault(file["sha256"], []).append(file)
    return [group for group in same.values() if len(group) > 1]


def markdown(folder, totals, checked):
    lines = ["# Audit of a repository", "", "Input:", *block([plain(folder)]), "",
             "| | total |", "|---|---:|"]
    lines += [f"| {name.replace('_', ' ')} | {total} |" for name, total in totals.items()]
    lines += ["", "## Markers", ""] + block(findings(checked, "markers", "marker_count", "text"))
    lines += ["", "## Broken links", ""] + block(findings(checked, "broken_links", "broken_link_count", "target"))
    groups = []
    for group in duplicates(checked):
        groups.append(f"{group[0]['sha256'][:12]}: {len(group)} files of {group[0]['size']} bytes")
        groups += ["    " + plain(file["path"]) for file in group]
    lines += ["", "## Duplicates", ""] + block(groups)
    return "\n".join(lines) + "\n"


def findings(checked, what, count, text):
    """Returns `path:line: text` lines, as grep prints them."""
    lines = []
    for file in checked:
        lines += [f"{plain(file['path'])}:{found['line']}: {plain(found[text])}" for found in file[what]]
        if file[count] > len(file[what]):
            lines.append(f"{plain(file['path'])}: and {file[count] - len(file[what])} more")
    return lines


def block(lines):
    """Markdown shows a fenced block as it is; no line of ours consists of backticks alone, so none ends it."""
    return ["```text", *lines, "```"] if lines else ["None."]


def plain(text):
    """Makes what would move a terminal's cursor or end a line visible."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
