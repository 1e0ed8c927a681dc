package report

import (
	"fmt"
	"strconv"

	"github.com/keyagent/keyagent/attest"
)

// Sizes of the picture, in its own units.
const (
	boxWidth  = 262
	boxHeight = 58
	rowHeight = 104
	width     = 884
	margin    = 14
)

// column returns the middle of one of three columns.
func column(n int) int { return margin + boxWidth/2 + n*(width-2*margin-boxWidth)/2 }

// box is a link of the chain with its place.
type box struct {
	*link
	column, row int
}

func (b box) x() int      { return column(b.column) }
func (b box) top() int    { return margin + b.row*rowHeight }
func (b box) bottom() int { return b.top() + boxHeight }

// picture draws the chain of trust. Each arrow leads from what is shown to what it rests on.
func (m *markup) picture(root *link) {
	boxes := arrange(root)
	rows := 0
	for _, b := range boxes {
		rows = max(rows, b.row+1)
	}
	height := 2*margin + (rows-1)*rowHeight + boxHeight
	m.open("svg", "viewBox", fmt.Sprintf("0 0 %d %d", width, height), "role", "img", "aria-labelledby", "picture-title")
	m.element("title", "The chain from your challenge to the trust anchors, with what was found for each link", "id", "picture-title")
	m.open("defs")
	m.open("marker", "id", "head", "viewBox", "0 0 8 8", "refX", "7", "refY", "4", "markerWidth", "8", "markerHeight", "8", "orient", "auto")
	m.open("path", "d", "M0 0 L8 4 L0 8 Z", "class", "head")
	m.close("path")
	m.close("marker")
	m.close("defs")
	for _, b := range boxes {
		for _, to := range boxes {
			if contains(b.below, to.link) {
				m.arrow(b, to)
			}
		}
	}
	for _, b := range boxes {
		m.box(b)
	}
	m.close("svg")
}

func contains(list []*link, l *link) bool {
	for _, other := range list {
		if other == l {
			return true
		}
	}
	return false
}

// arrange gives each link its place, and draws where a chain of certificates should have led if it
// led nowhere. The rules of the policy hang on nothing, so they have no arrow.
func arrange(root *link) []box {
	places := map[string][2]int{
		"challenge": {1, 0}, "key": {0, 1}, "quote": {1, 1}, "eventlog": {2, 1}, "ak": {1, 2}, "claims": {1, 3}, "report": {1, 4},
		"policy": {0, 0}, "other": {0, 5},
	}
	var boxes []box
	var walk func(l *link, parent string)
	walk = func(l *link, parent string) {
		place := places[l.id]
		if l.id == "anchor" {
			place = map[string][2]int{"ak": {2, 2}, "report": {1, 5}}[parent]
		}
		boxes = append(boxes, box{l, place[0], place[1]})
		for _, sub := range l.below {
			walk(sub, l.id)
		}
	}
	walk(root, "")
	return boxes
}

// arrow draws a way from one box to another, and says how they hang together.
func (m *markup) arrow(from, to box) {
	if to.id == "policy" || to.id == "other" {
		return
	}
	x1, y1, x2, y2 := from.x(), from.bottom(), to.x(), to.top()-2
	switch {
	case from.row == to.row:
		x1, y1, x2, y2 = from.x()+boxWidth/2, from.top()+boxHeight/2, to.x()-boxWidth/2-2, from.top()+boxHeight/2
		m.open("path", "class", "way", "marker-end", "url(#head)", "d", fmt.Sprintf("M%d %d L%d %d", x1, y1, x2, y2))
		m.close("path")
		return
	case to.id == "ak": // below the two that it has signed
		m.way(column(0), column0Bottom(to), to)
		y1 = to.top() - rowHeight + boxHeight
	}
	m.way(x1, y1, to)
	if to.id != "key" { // its label is that of the quote
		m.label(x2+10, y2-(rowHeight-boxHeight)/2+6, to)
	}
}

// column0Bottom is where the box in the first column of the row above ends.
func column0Bottom(b box) int { return b.top() - rowHeight + boxHeight }

// way leads down, and if need be over, to a box.
func (m *markup) way(x, y int, to box) {
	middle := (y + to.top()) / 2
	m.open("path", "class", "way", "marker-end", "url(#head)", "d", fmt.Sprintf("M%d %d V%d H%d V%d", x, y, middle, to.x(), to.top()-2))
	m.close("path")
}

func (m *markup) label(x, y int, to box) {
	m.element("text", short(to.how, 52), "class", "soft", "x", strconv.Itoa(x), "y", strconv.Itoa(y))
}

func (m *markup) box(b box) {
	state := b.state()
	x := b.x() - boxWidth/2
	m.open("g")
	m.open("rect", "class", "box b-"+state, "rx", "6", "x", strconv.Itoa(x), "y", strconv.Itoa(b.top()),
		"width", strconv.Itoa(boxWidth), "height", strconv.Itoa(boxHeight))
	m.close("rect")
	m.element("text", symbol(state), "class", "title t-"+state, "x", strconv.Itoa(x+12), "y", strconv.Itoa(b.top()+24))
	m.element("text", short(b.brief, 29), "class", "title", "x", strconv.Itoa(x+30), "y", strconv.Itoa(b.top()+24))
	m.element("text", short(b.summary(), 34), "class", "soft", "x", strconv.Itoa(x+30), "y", strconv.Itoa(b.top()+43))
	m.close("g")
}

func symbol(state string) string {
	return map[string]string{"pass": "✓", "fail": "✗", "absent": "–"}[state]
}

// summary says in a few words what was found for a link.
func (l *link) summary() string {
	passed := 0
	for _, c := range l.checks {
		if !c.Met() {
			return c.Name + " does not hold"
		}
		if c.Status == attest.Pass {
			passed++
		}
	}
	switch {
	case l.id == "anchor":
		return "your trust anchor"
	case passed == 0:
		return l.none()
	case passed == 1:
		return "1 check passed"
	}
	return fmt.Sprintf("%d checks passed", passed)
}

// short cuts a text to a number of characters.
func short(text string, most int) string {
	runes := []rune(text)
	if len(runes) <= most {
		return text
	}
	return string(runes[:most-1]) + "…"
}
