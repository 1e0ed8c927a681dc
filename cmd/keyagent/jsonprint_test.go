package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

// What is printed as JSON says the same, and cannot change what a terminal shows.
func TestJSONShowsNoCharacterThatCannotBeSeen(t *testing.T) {
	const foreign = "a\x1b[2J\u009b31m\u202egpj\u2066\u200b\u00ad\ufeff\U000e0041 ß 語 😀\n\t"
	for name, print := range map[string]func(*app, any) error{
		"indented": (*app).printJSON, "a line": (*app).printJSONLine,
	} {
		var out bytes.Buffer
		if err := print(&app{streams: streams{out: &out}}, map[string]string{foreign: foreign}); err != nil {
			t.Fatal(err)
		}
		printed := strings.TrimSuffix(out.String(), "\n")
		for _, r := range printed {
			if !unicode.IsPrint(r) && (r != '\n' || name == "a line") {
				t.Errorf("%s: %U is printed in %q", name, r, printed)
			}
		}
		for _, stays := range []string{"ß", "語", "😀"} {
			if !strings.Contains(printed, stays) {
				t.Errorf("%s: %s is not in %s", name, stays, printed)
			}
		}
		var read map[string]string
		if err := json.Unmarshal(out.Bytes(), &read); err != nil || read[foreign] != foreign {
			t.Errorf("%s: %v, %q", name, err, read)
		}
	}
}
