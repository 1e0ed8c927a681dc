package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestArgumentsAfterTheProgramOfExecAreTheProgramsOwn(t *testing.T) {
	for line, want := range map[string]bool{
		"exec --json --identity vm app":            true,
		"exec --identity vm --json app --output x": true,
		"--socket exec exec --for go --json":       true,
		"exec --identity vm app --json":            false,
		"exec --identity=vm app --output json":     false,
		"exec --identity vm -- app --json":         false,
		"--config a.yaml exec --for go app --json": false,
		"exec --lifetime unit --quiet exec --json": false,
		"exec app --json exec":                     false,
		"token --identity exec --output json":      true,
		"key show exec --json":                     true,
		"status --json":                            true,
		"--socket s status --json":                 true,
		"exec --identity":                          false,
	} {
		if got := wantsJSON(strings.Fields(line)); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
}

func TestTheFlagsOfExecThatTakeTheNextArgumentAreKnown(t *testing.T) {
	a := &app{}
	root := a.rootCommand()
	cmd, _, err := root.Find([]string{execName})
	if err != nil {
		t.Fatal(err)
	}
	var takes []string
	note := func(f *pflag.Flag) {
		if f.NoOptDefVal == "" && f.Name != "help" {
			takes = append(takes, "--"+f.Name)
		}
	}
	cmd.LocalFlags().VisitAll(note)
	cmd.InheritedFlags().VisitAll(note)
	known := execValues()
	slices.Sort(takes)
	slices.Sort(known)
	if !slices.Equal(slices.Compact(takes), known) {
		t.Errorf("they are %v, known are %v", takes, known)
	}
}
