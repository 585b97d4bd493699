"""Markdown tables of what benches/peers/run has written."""
import json

# In the order of the tables.
WAYS = ("portcullis, admin API", "portcullis, list and refresh", "nginx, reload", "haproxy, reload",
        "haproxy, runtime API")
OPEN = ("http1", "http2", "stream", "body", "websocket")
NEW = ("handshake", "resumption")
NAMES = {"http1": "HTTP/1.1", "http2": "HTTP/2", "stream": "HTTP/2 stream", "body": "request body",
         "websocket": "WebSocket", "handshake": "new connection", "resumption": "resumed session"}


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]) + "\n"


def milliseconds(us):
    if us is None:
        return "–"
    return f"{us / 1000:.1f}" if us < 100_000 else f"{us / 1000:,.0f}"


def seen(probe):
    """First refusal / last served."""
    if probe is None or probe["verdict"] == "not_offered":
        return "–"
    if probe["verdict"] == "served":
        return "never"
    last = probe["last_served_us"]
    last = "none" if last is not None and last <= 0 else milliseconds(last)
    text = f"{milliseconds(probe['first_refusal_us'])} / {last}"
    return text if probe["verdict"] == "refused" else f"{text} ({probe['verdict']})"


def drills(found):
    """One row for each list and way, of the drill on open connections and that on new ones."""
    pairs = {}
    for findings in found:
        drill = findings["found"].get("drill")
        if drill:
            way, _, entries = findings["label"].rpartition(", list of ")
            pairs.setdefault((int(entries.replace(",", "")), way), []).append(drill)
    rows = []
    order = lambda pair: (pair[0][0], WAYS.index(pair[0][1]))
    for (entries, way), both in sorted(pairs.items(), key=order):
        of = lambda who, kind: next((probe for drill in both for probe in drill["probes"]
                                     if (probe["who"], probe["kind"]) == (who, kind)), None)
        lost = sum(probe["lost"] for drill in both for probe in drill["probes"] if probe["who"] == "bystander")
        answered = ", ".join(milliseconds(drill["call"]["answered_us"]) for drill in both)
        rows.append([f"{entries:,}", way, *(seen(of("victim", kind)) for kind in OPEN + NEW), answered, lost])
    return rows


def costs(found):
    rows = []
    for findings in found:
        proxies = findings["found"].get("proxies")
        for cost in proxies["costs"] if proxies else []:
            entries = int(findings["label"].removeprefix("list of ").replace(",", ""))
            rows.append((entries, [f"{entries:,}", NAMES[cost["work"]], cost["proxy"], f"{cost['cpu_us']:,.1f}",
                                   f"{cost['ratio']:.2f}", f"{cost['per_second']:,.0f}", cost["errors"]]))
    return [row for _, row in sorted(rows, key=lambda row: row[0])]


def memory(out):
    rows = []
    for one in json.loads((out / "memory.json").read_text()):
        if "proxy" in one:
            rows.append([f"{one['entries']:,}", one["proxy"], one["mib"], ""])
        elif one["kinds"] == "new":
            rows.append([f"{one['entries']:,}", one["way"], one["before_mib"], one["after_mib"]])
    return rows


def markdown(out):
    found = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))
             if file.name.startswith(("drill-", "proxy-"))]
    versions = json.loads((out / "versions.json").read_text())
    parts = [", ".join(f"{name} {version}" for name, version in versions.items()) + "\n"]
    if rows := drills(found):
        parts.append("First refusal / last request served, milliseconds since the revocation was asked for; none: none "
                     "after it.\n")
        head = ("list", "how", *(NAMES[kind] for kind in OPEN + NEW), "answered", "bystander errors")
        parts.append(table(head, rows))
    if rows := costs(found):
        parts.append(table(("list", "work", "proxy", "CPU µs a request", "ratio", "requests/s", "errors"), rows))
    parts.append(table(("list", "proxy", "memory MiB", "after the revocation"), memory(out)))
    return "\n".join(parts)
