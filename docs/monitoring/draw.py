#!/usr/bin/env python3
"""Draws docs/monitoring/dashboard.json as an SVG, with what a Prometheus has to say.

Usage: draw.py PROMETHEUS-URL MINUTES >dashboard.svg

It needs nothing but Python. Grafana draws the same expressions; this is for the picture in the docs.
"""
import datetime
import json
import pathlib
import sys
import time
import urllib.parse
import urllib.request
from xml.sax.saxutils import escape

COLUMN, ROW, GAP = 40, 22, 6  # pixels
COLOURS = ["#2f6fb5", "#d97a1e", "#3b8f4a", "#b23a48", "#7a5aa6", "#8a6d3b", "#2a9d8f", "#777777"]
FONT = 'font-family="sans-serif" font-size='


def ask(base, path, **query):
    url = base + "/api/v1/" + path + "?" + urllib.parse.urlencode(query)
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)["data"]["result"]


def legend(form, labels):
    for name, value in labels.items():
        form = form.replace("{{%s}}" % name, value)
    return " ".join(word for word in form.split() if "{{" not in word)


def shown(value, unit):
    if unit == "percentunit":
        return "%.3g %%" % (value * 100)
    if unit == "bytes":
        return "%.3g MB" % (value / 1e6)
    if unit == "s":
        return "%.3g ms" % (value * 1000) if value < 1 else "%.3g s" % value
    if unit == "d":
        return "%.3g d" % value
    return "%.4g" % value


def series(base, panel, start, end):
    for target in panel["targets"]:
        query = target["expr"].replace("$instance", ".*")
        for one in ask(base, "query_range", query=query, start=start, end=end, step=5):
            points = [(float(t), float(v)) for t, v in one["values"] if v not in ("NaN", "+Inf", "-Inf")]
            if points:
                yield legend(target["legendFormat"], one["metric"]), points


def stat(panel, lines, x, y, width, height, unit):
    value = lines[-1][1][-1][1] if lines else None
    text = "no data" if value is None else shown(value, unit)
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    colour = "#444444"
    for step in steps:
        if step["value"] is None or (value is not None and value >= step["value"]):
            colour = {"red": COLOURS[3], "green": COLOURS[2]}[step["color"]]
    return ['<text x="%g" y="%g" text-anchor="middle" fill="%s" %s"26">%s</text>'
            % (x + width / 2, y + height * 0.72, colour, FONT, escape(text))]


def graph(panel, lines, x, y, width, height, unit, start, end):
    out = []
    top = max((v for _, points in lines for _, v in points), default=1) or 1
    top = panel["fieldConfig"]["defaults"].get("max", top * 1.05)
    left, right, upper, lower = x + 62, x + width - 10, y + 30, y + height - 36
    for part in (0, 0.5, 1):
        at = lower - part * (lower - upper)
        out.append('<line x1="%g" y1="%g" x2="%g" y2="%g" stroke="#dddddd"/>' % (left, at, right, at))
        out.append('<text x="%g" y="%g" text-anchor="end" fill="#666666" %s"10">%s</text>' % (left - 5, at + 3, FONT, escape(shown(part * top, unit))))
    for t, anchor in ((start, "start"), (end, "end")):
        clock = datetime.datetime.fromtimestamp(t, datetime.timezone.utc).strftime("%H:%M")
        out.append('<text x="%g" y="%g" text-anchor="%s" fill="#666666" %s"10">%s</text>' % (left if t == start else right, lower + 13, anchor, FONT, clock))
    at = left
    for n, (name, points) in enumerate(lines):
        colour = COLOURS[n % len(COLOURS)]
        path = " ".join("%.1f,%.1f" % (left + (t - start) / (end - start) * (right - left), lower - min(v, top) / top * (lower - upper)) for t, v in points)
        out.append('<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>' % (path, colour))
        if at + 6 * len(name) + 14 < right:
            out.append('<rect x="%g" y="%g" width="8" height="8" fill="%s"/>' % (at, lower + 20, colour))
            out.append('<text x="%g" y="%g" fill="#333333" %s"10">%s</text>' % (at + 11, lower + 28, FONT, escape(name)))
            at += 6 * len(name) + 22
    return out


def main(base, minutes):
    page = json.loads((pathlib.Path(__file__).parent / "dashboard.json").read_text())
    end = int(time.time())
    start = end - 60 * minutes
    bottom = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in page["panels"])
    print('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d">' % (24 * COLUMN, bottom * ROW))
    print('<rect width="100%" height="100%" fill="#f4f4f4"/>')
    for panel in page["panels"]:
        place = panel["gridPos"]
        x, y = place["x"] * COLUMN + GAP / 2, place["y"] * ROW + GAP / 2
        width, height = place["w"] * COLUMN - GAP, place["h"] * ROW - GAP
        unit = panel["fieldConfig"]["defaults"]["unit"]
        lines = list(series(base, panel, start, end))
        print('<rect x="%g" y="%g" width="%g" height="%g" fill="#ffffff" stroke="#cccccc"/>' % (x, y, width, height))
        small = "10" if len(panel["title"]) * 6 > width - 16 else "12"
        print('<text x="%g" y="%g" fill="#222222" %s"%s">%s</text>' % (x + 8, y + 18, FONT, small, escape(panel["title"])))
        if panel["type"] == "stat":
            print("\n".join(stat(panel, lines, x, y, width, height, unit)))
        else:
            print("\n".join(graph(panel, lines, x, y, width, height, unit, start, end)))
    print("</svg>")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1].rstrip("/"), int(sys.argv[2]))
