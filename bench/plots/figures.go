package main

import (
	"fmt"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"

	"github.com/keyagent/keyagent/bench/series"
)

// A figure is a plot of the page.
type figure struct {
	name string
	draw func(m measured, t theme, p *plot.Plot) error
}

func figures() []figure {
	return []figure{
		{"start", drawStart},
		{"herd", drawHerd},
		{"outage", drawOutage},
		{"rate", drawRate},
	}
}

func (f figure) file(t theme) string { return f.name + "-" + t.name + ".svg" }

func (f figure) render(m measured, t theme) ([]byte, error) {
	p := t.newPlot()
	if err := f.draw(m, t, p); err != nil {
		return nil, err
	}
	return svg(p)
}

// drawStart shows how long a warm start takes on TPMs from fast to slow.
func drawStart(m measured, t theme, p *plot.Plot) error {
	p.X.Label.Text = "added to each command (ms), six times as much to a signature"
	p.Y.Label.Text = "start to first token (s)"
	p.Legend.Top, p.Legend.Left = true, true
	return t.lines(m, p, "start", func(ms, took float64) (x, y float64) { return ms, took / 1000 }, plotter.NoStep)
}

// drawHerd shows how many of the programs have their token after a time, which spans three orders
// of magnitude.
func drawHerd(m measured, t theme, p *plot.Plot) error {
	p.X.Label.Text = "time since all were let go (s)"
	p.Y.Label.Text = "programs with their token"
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	const earliest = 0.01 // where the logarithmic axis begins
	err := t.lines(m, p, "herd", func(ms, served float64) (x, y float64) { return max(ms/1000, earliest), served }, plotter.PostStep)
	p.X.Min, p.X.Max = earliest, math.Pow(10, math.Ceil(math.Log10(p.X.Max)))
	return err
}

// drawOutage shows how many requests were answered so far.
func drawOutage(m measured, t theme, p *plot.Plot) error {
	p.X.Label.Text = "minutes of the outage"
	p.Y.Label.Text = "requests answered so far"
	p.Legend.Top, p.Legend.Left = true, true
	return t.lines(m, p, "outage, last-minutes", func(minute, answered float64) (x, y float64) { return minute, answered }, plotter.NoStep)
}

// lines draws the two series of a plot, ours first.
func (t theme) lines(m measured, p *plot.Plot, name string, scale func(x, y float64) (float64, float64), step plotter.StepKind) error {
	all := m.run.Of(name)
	if len(all) != 2 {
		return fmt.Errorf("the series have %d lines named %q, want 2: the page needs all that make bench measures", len(all), name)
	}
	p.Add(t.newGrid())
	for i, s := range all {
		line, err := plotter.NewLine(scaled(s, scale))
		if err != nil {
			return err
		}
		line.Color, line.Width, line.StepStyle = t.colour(i), 2, step
		p.Add(line)
		p.Legend.Add(s.Name, line)
	}
	p.X.Min, p.Y.Min = 0, 0
	p.Y.Max *= 1.05 // or the highest line lies on the edge
	return nil
}

func scaled(s series.Series, scale func(x, y float64) (float64, float64)) plotter.XYs {
	points := make(plotter.XYs, len(s.X))
	for i := range points {
		points[i].X, points[i].Y = scale(s.X[i], s.Y[i])
	}
	return points
}

func (t theme) newGrid() *plotter.Grid {
	g := plotter.NewGrid()
	g.Vertical.Color, g.Horizontal.Color = t.grid, t.grid
	g.Vertical.Width, g.Horizontal.Width = 0.5, 0.5
	return g
}

func (t theme) colour(i int) color.Color {
	if i == 0 {
		return t.ours
	}
	return t.references
}

// The rows of the results that the bars of the rate are.
const (
	rateOf1  = "cached token, 1 connection, beside bare net/http: rate"
	rateOf16 = "cached token, 16 connections, beside bare net/http: rate"
)

// drawRate shows requests per second as bars, ours beside the reference.
func drawRate(m measured, t theme, p *plot.Plot) error {
	one, err := m.row(rateOf1)
	if err != nil {
		return err
	}
	sixteen, err := m.row(rateOf16)
	if err != nil {
		return err
	}
	p.Y.Label.Text = "requests per second (thousands)"
	p.NominalX("1 connection", "16 connections")
	p.X.Min, p.X.Max = -0.7, 1.7
	p.Legend.Top, p.Legend.Left = true, true
	const bar = 0.7 * vg.Inch
	for i, side := range []struct {
		name   string
		values plotter.Values
	}{
		{"the agent, a cached token", plotter.Values{one.Ours / 1000, sixteen.Ours / 1000}},
		{"bare net/http, the same bytes", plotter.Values{one.Reference / 1000, sixteen.Reference / 1000}},
	} {
		offset := bar * vg.Length(2*i-1) / 2 // left and right of the tick
		if err := t.bars(p, i, side.name, side.values, bar, offset); err != nil {
			return err
		}
	}
	p.Y.Min = 0
	p.Y.Max *= 1.35 // for the legend
	return nil
}

// bars draws one side of the pairs, with the numbers above.
func (t theme) bars(p *plot.Plot, i int, name string, values plotter.Values, width, offset vg.Length) error {
	bars, err := plotter.NewBarChart(values, width)
	if err != nil {
		return err
	}
	bars.Color, bars.LineStyle.Width, bars.Offset = t.colour(i), 0, offset
	var above plotter.XYLabels
	for x, value := range values {
		above.XYs = append(above.XYs, plotter.XY{X: float64(x), Y: value})
		above.Labels = append(above.Labels, fmt.Sprintf("%.1f", value))
	}
	labels, err := plotter.NewLabels(above)
	if err != nil {
		return err
	}
	labels.Offset.X, labels.Offset.Y = offset, 2
	for n := range labels.TextStyle {
		labels.TextStyle[n].Color, labels.TextStyle[n].Font, labels.TextStyle[n].XAlign = t.ink, sans(9), text.XCenter
	}
	p.Add(bars, labels)
	p.Legend.Add(name, bars)
	return nil
}
