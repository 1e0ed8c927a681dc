package upstream_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/upstream"
)

func TestMembersAreLookedAtOneByOne(t *testing.T) {
	m, err := upstream.ParseMembers([]byte(` {"text": "a", "number": 5, "string": "86395", "fraction": 86399.9, "both": "12.0", "list": ["x", 5], "object": {"in": "b"},
		"null": null, "empty": "", "yes": true, "twice": 1, "twice": 1, "TEXT": 7, "deep": ` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `,
		"date": "2026-12-01", "exponent": 1e3, "hex": "0x10", "infinite": "Inf", "huge": 99999999999999999999, "long": "` + strings.Repeat("1", 100) + `", "below": -1.5, "secret": "eyJ"} `))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{"number": 5, "string": 86395, "fraction": 86399, "both": 12, "below": -2} {
		if got, err := m.Number(name); err != nil || got != want {
			t.Errorf("%s: got %d, %v; want %d", name, got, err, want)
		}
	}
	if text, err := m.Text("text"); text != "a" || err != nil {
		t.Errorf("text: %q, %v", text, err)
	}
	if list, err := m.List("list"); len(list) != 2 || err != nil {
		t.Errorf("list: %s, %v", list, err)
	}
	inner, err := m.Object("object")
	if text, _ := inner.Text("in"); text != "b" || err != nil {
		t.Errorf("object: %q, %v", text, err)
	}
	wrong := map[string]error{}
	for _, name := range []string{"null", "empty", "absent", "number", "yes", "twice", "list"} {
		_, wrong["text "+name] = m.Text(name)
	}
	for _, name := range []string{"null", "empty", "absent", "text", "twice", "date", "exponent", "hex", "infinite", "huge", "long", "list", "secret"} {
		_, wrong["number "+name] = m.Number(name)
	}
	for _, name := range []string{"null", "absent", "text", "twice", "list"} {
		_, wrong["object "+name] = m.Object(name)
	}
	_, wrong["list text"] = m.List("text")
	for what, err := range wrong {
		_, name, _ := strings.Cut(what, " ")
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "eyJ") {
			t.Errorf("%s: %v", what, err)
		}
		_, missing := errors.AsType[*upstream.MissingError](err)
		if want := slices.Contains([]string{"text null", "text empty", "text absent", "number null", "number absent", "object null", "object absent"}, what); missing != want {
			t.Errorf("%s: missing %v (%v)", what, missing, err)
		}
	}
}

func TestAnAnswerThatIsNoObjectIsRefused(t *testing.T) {
	for _, text := range []string{"", "null", "[]", `"a"`, "{", `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a":1} {}`, "<html>", `{"secret":eyJ}`} {
		if m, err := upstream.ParseMembers([]byte(text)); err == nil || strings.Contains(err.Error(), "eyJ") {
			t.Errorf("%q: got %v, %v", text, m, err)
		}
	}
}

// FuzzMembers: what is accepted is JSON, and a text is what the standard library reads, if the
// member is there once.
func FuzzMembers(f *testing.F) {
	f.Add([]byte(`{"a":"b","n":"12.5","o":{"a":1}}`))
	f.Add([]byte(`{"a":"b","a":"c"}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		m, err := upstream.ParseMembers(answer)
		if err != nil {
			return
		}
		var all map[string]any
		if err := json.Unmarshal(answer, &all); err != nil {
			t.Fatalf("accepted %q: %v", answer, err)
		}
		for name := range m {
			text, err := m.Text(name)
			if is, _ := all[name].(string); err == nil && text != is {
				t.Errorf("%q: %q is %q, want %q", answer, name, text, is)
			}
			_, _ = m.Number(name)
			_, _ = m.Object(name)
			_, _ = m.List(name)
		}
	})
}
