package main

import (
	"bytes"
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

const (
	width  = 6.5 * vg.Inch
	height = 3.2 * vg.Inch
)

// A theme is the colours of a page that a plot is on.
type theme struct {
	name             string
	page, ink, grid  color.Color
	ours, references color.Color
}

func themes() []theme {
	return []theme{
		{"light", rgb(0xffffff), rgb(0x1f2328), rgb(0xd1d9e0), rgb(0x0969da), rgb(0xbc4c00)},
		{"dark", rgb(0x0d1117), rgb(0xf0f6fc), rgb(0x3d444d), rgb(0x4493f8), rgb(0xf0883e)},
	}
}

func rgb(hex uint32) color.Color {
	return color.RGBA{R: uint8(hex >> 16), G: uint8(hex >> 8), B: uint8(hex), A: 0xff}
}

// sans is the typeface of all text.
func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

// newPlot is an empty plot in the theme's colours.
func (t theme) newPlot() *plot.Plot {
	p := plot.New()
	p.BackgroundColor = t.page
	for _, style := range []*text.Style{&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		style.Color, style.Font = t.ink, sans(9)
	}
	for _, line := range []*draw.LineStyle{&p.X.LineStyle, &p.Y.LineStyle, &p.X.Tick.LineStyle, &p.Y.Tick.LineStyle} {
		line.Color = t.ink
	}
	p.Legend.ThumbnailWidth = 0.3 * vg.Inch
	p.Legend.Padding = 1 * vg.Millimeter
	return p
}

// svg writes a plot. Where the typeface that it was laid out with is missing, one with the same
// widths is used.
func svg(p *plot.Plot) ([]byte, error) {
	canvas := vgsvg.New(width, height)
	const margin = 3 * vg.Millimeter
	area := draw.New(canvas)
	area.SetColor(p.BackgroundColor)
	area.Fill(area.Path())
	p.Draw(draw.Crop(area, margin, -margin, margin, -margin))
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, err
	}
	return bytes.ReplaceAll(out.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;")), nil
}
