"""The tables of benches/README.md, from what was measured.

  python3 benches/strangers/tables.py strangers.json ...      # the tables of these runs together
"""
import json
import pathlib
import statistics
import sys
import time
from functools import partial

import witness

NONE = "–"


def quantile(values, share):
    """The smallest value that this share of all is no greater than."""
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def amount(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def waits(samples):
    """Seconds that an agent waits who asks in a rhythm. While it waits for one answer it would have asked again: those
    requests count with the rest of the time (coordinated omission)."""
    return [left for one in samples for left in counted_down(one["seconds"], witness.RHYTHM_STEADY)]


def counted_down(seconds, rhythm):
    return [seconds - rhythm * i for i in range(max(1, int(seconds / rhythm)))]


def times(samples, of=lambda samples: [one["seconds"] for one in samples]):
    """p50 / p99 in milliseconds, and how many were not served."""
    if not samples:
        return NONE
    values = [seconds * 1000 for seconds in of(samples)]
    lost = sum(not one["good"] for one in samples)
    said = f"{amount(quantile(values, 0.5))} / {amount(quantile(values, 0.99))}"
    return said + (f" ({lost} of {len(samples)} lost)" if lost else "")


def revocations(samples):
    """Median / longest in milliseconds until the answer, and how many did not end the agent's connection."""
    if not samples:
        return NONE
    values = [one["seconds"] * 1000 for one in samples]
    said = f"{amount(statistics.median(values))} / {amount(max(values))}"
    refused = sum(not one["good"] for one in samples)
    early, open_still = sum(one["lost"] for one in samples), sum(one["ended"] is None and not one["lost"] for one in samples)
    parts = [f"{count} of {len(samples)} {what}" for count, what in
             ((refused, "not answered with 200"), (open_still, "connections not ended"), (early, "connections lost before")) if count]
    return said + (f" ({', '.join(parts)})" if parts else "")


def middle(rows, of):
    values = [of(row["found"]) for row in rows]
    return statistics.median(values)


def pooled(rows, who, phase):
    return [one for row in rows for one in row["found"][who][phase]]


def row(group):
    """One line of the table, of all rounds of an attack on a gate."""
    first = group[0]
    head = [first["attack"], first["gate"]]
    rows = [one for one in group if one["found"] and "attack" in one["found"]]
    if not rows:
        return [*head, first["told"], *[NONE] * 8]
    who = lambda name, say: " → ".join(say(pooled(rows, name, phase)) for phase in ("quiet", "attack"))
    memory = " / ".join(amount(middle(rows, lambda found, at=at: found.get(at, 0))) for at in ("rss_before", "rss_peak", "rss_after"))
    cpu = " → ".join(f"{middle(rows, lambda found, at=at: found[at]['cpu'] / found[at]['seconds']):.2f}" for at in ("quiet", "attack"))
    log = (f"{middle(rows, lambda found: found['attack']['log_bytes']) / 1e6:.2f} MB, "
           f"{middle(rows, lambda found: found['attack']['log_lines']):,.0f} lines")
    descriptors = " → ".join(f"{middle(rows, lambda found, at=at: found[at]):,.0f}" for at in ("descriptors_before", "descriptors_peak"))
    seconds = f"{middle(rows, lambda found: found['attack']['seconds']):.0f}"
    return [*head, rows[0]["told"], seconds, who("steady", partial(times, of=waits)), who("fresh", times),
            who("revoke", revocations), memory, cpu, log, descriptors]


HEADINGS = ("attack", "gate", "what the attackers did", "seconds", "open connection ms", "new connection ms", "revoke ms",
            "RSS MiB before / peak / after", "CPU, cores", "log", "descriptors")


def table(headings, lines):
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in (headings, ["---"] * len(headings), *lines))


def markdown(rows):
    groups, starved = {}, []
    for one in rows:
        if "starved" in one:
            starved.append(one)
        else:
            groups.setdefault((one["attack"], one["gate"]), []).append(one)
    gates = list(dict.fromkeys(one["gate"] for one in rows))
    attacks = list(dict.fromkeys(attack for attack, _ in groups))
    keys = [(attack, gate) for attack in attacks for gate in gates if (attack, gate) in groups]
    told = f"{time.strftime('%Y-%m-%d')}; quiet → attack; times are p50 / p99 (revoke: median / longest).\n\n"
    text = told + table(HEADINGS, [row(groups[key]) for key in keys]) if groups else told
    if starved:
        lines = [[one["gate"], one["starved"]["descriptors"], outcome(one["starved"]), one["starved"]["log"]] for one in starved]
        text += f"\n\n{starved[0]['attack']}:\n\n" + table(("gate", "descriptors", "outcome", "last line of the log"), lines)
    return text + "\n"


def outcome(found):
    if found["exit_code"] is not None:
        return f"exit code {found['exit_code']}"
    return "lives, and serves" if found["serves"] else "lives, and does not serve"


if __name__ == "__main__":
    print(markdown([json.loads(line) for file in sys.argv[1:] for line in pathlib.Path(file).read_text().splitlines()]), end="")
