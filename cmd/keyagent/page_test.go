package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What the page tells people to type is what a script has typed.
func TestTheCommandsOfTheKeysPageAreRun(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "keys.md"))
	if err != nil {
		t.Fatal(err)
	}
	var run []string
	for _, path := range []string{"script/page.txtar", "tpmtools/parents.txtar"} { // the latter for what tpm2-tools have to prepare
		script, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(path)))
		if err != nil {
			t.Fatal(err)
		}
		run = append(run, strings.Split(string(script), "\n")...)
	}
	shown := 0
	for line := range strings.SplitSeq(string(page), "\n") {
		command := strings.TrimSpace(line)
		if !strings.HasPrefix(command, "keyagent ") {
			continue
		}
		shown++
		if !slices.Contains(run, "exec "+command) {
			t.Errorf("no script runs: %s", command)
		}
	}
	for i, part := range strings.Split(string(page), "`") {
		if i%2 == 1 && strings.HasPrefix(part, "keyagent key ") && !slices.Contains(run, "exec "+part) && part != "keyagent key rotate binding" {
			t.Errorf("no script runs: %s", part)
		}
	}
	if shown < 15 {
		t.Errorf("only %d commands were found on the page", shown)
	}
}
