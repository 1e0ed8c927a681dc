package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"strconv"
	"text/template"
)

//go:embed performance.md.tmpl
var pageText string

// page writes the page: the text of the template with the numbers of this run.
func (m measured) page() ([]byte, error) {
	t, err := template.New("performance.md").Funcs(template.FuncMap{
		"row": m.row, "picture": picture, "value": value, "bar": bar, "verdict": verdict, "seconds": seconds,
	}).Parse(pageText)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, struct {
		Date, Machine string
		Results       []result
	}{m.run.Date, m.run.Machine, m.results})
	return out.Bytes(), err
}

// picture is a plot in both themes, of which a reader sees the one of their page.
func picture(name, description string) string {
	return fmt.Sprintf(`<picture>
  <source media="(prefers-color-scheme: dark)" srcset="performance/%s-dark.svg">
  <img src="performance/%[1]s-light.svg" alt=%[2]q>
</picture>`, name, description)
}

// value is a number with three digits that count, in its unit.
func value(number float64, unit string) string {
	if number >= 100 || number == float64(int(number)) {
		return thousands(strconv.FormatFloat(number, 'f', 0, 64)) + " " + unit
	}
	return strconv.FormatFloat(number, 'g', 3, 64) + " " + unit
}

// thousands puts commas between groups of three digits.
func thousands(digits string) string {
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func bar(r result) string {
	switch {
	case r.Bar == 0:
		return "none"
	case r.Better == "higher":
		return fmt.Sprintf("≥ %.2f", r.Bar)
	default:
		return fmt.Sprintf("≤ %.2f", r.Bar)
	}
}

func verdict(r result) string {
	switch {
	case r.Skipped != "":
		return "not measured: " + r.Skipped
	case r.Bar == 0:
		return "shown"
	case r.Met:
		return "yes"
	default:
		return "**missed**"
	}
}

func seconds(ms float64) string { return fmt.Sprintf("%.2f s", ms/1000) }
