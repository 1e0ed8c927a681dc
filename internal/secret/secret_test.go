package secret_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/secret"
)

const value = "eyJ0eXAiOiJKV1QifQ.payload.signature"

// holder is printed by reflection: fmt does not ask the methods of unexported fields.
type holder struct {
	Name   string
	hidden secret.String
}

// reply is a body that an encoder meets with a secret in an exported field.
type reply struct{ Token secret.String }

func TestStringNeverShowsItsValue(t *testing.T) {
	t.Parallel()
	s := secret.New(value)
	h := holder{Name: "n", hidden: s}
	shown := map[string]string{
		"wrapped in an error":    fmt.Errorf("calling: %w", errors.New(s.String())).Error(),
		"JSON":                   encoded(t, json.Marshal, s),
		"JSON in a struct":       encoded(t, json.Marshal, reply{s}),
		"JSON map":               encoded(t, json.Marshal, map[string]any{"token": s}),
		"XML":                    encoded(t, xml.Marshal, reply{s}),
		"slog text":              logged(func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) }, s),
		"slog JSON":              logged(func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) }, s),
		"slog, inside a struct":  logged(func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) }, h),
		"println of a pointer":   fmt.Sprintln(&s),
		"pointer to a structure": fmt.Sprintf("%+v", &h),
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%100s", "%T"} {
		shown["verb "+verb] = fmt.Sprintf(verb, s)
		shown["verb on a structure "+verb] = fmt.Sprintf(verb, h)
		shown["verb on a slice "+verb] = fmt.Sprintf(verb, []secret.String{s})
	}
	for where, text := range shown {
		if leaks(text) {
			t.Errorf("%s shows the secret: %s", where, text)
		}
	}
}

func leaks(text string) bool {
	text = strings.ToLower(text)
	return strings.Contains(text, "payload") || strings.Contains(text, fmt.Sprintf("%x", "payload"))
}

func encoded(t *testing.T, marshal func(any) ([]byte, error), v any) string {
	t.Helper()
	out, err := marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func logged(handler func(*bytes.Buffer) slog.Handler, v any) string {
	var buf bytes.Buffer
	slog.New(handler(&buf)).Info("token", "value", v)
	return buf.String()
}

func TestGobCannotCarryASecret(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	_ = gob.NewEncoder(&buf).Encode(reply{secret.New(value)})
	if leaks(buf.String()) {
		t.Error("gob wrote the secret")
	}
}

func TestPlaceholderTellsEmptyFromSet(t *testing.T) {
	t.Parallel()
	if got := fmt.Sprint(secret.New(value)); got != "[redacted]" {
		t.Errorf("a set secret prints as %q", got)
	}
	if got := fmt.Sprint(secret.String{}); got != "[empty]" {
		t.Errorf("the zero secret prints as %q", got)
	}
}

func TestReveal(t *testing.T) {
	t.Parallel()
	if got := secret.New(value).Reveal(); got != value {
		t.Errorf("Reveal returned %q", got)
	}
	var zero secret.String
	if zero.Reveal() != "" || !zero.IsZero() || !secret.New("").IsZero() || secret.New(value).IsZero() {
		t.Error("empty and set secrets are confused")
	}
}

func TestEqual(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		a, b secret.String
		want bool
	}{
		{"the same text held twice is equal", secret.New(value), secret.New(strings.Clone(value)), true},
		{"two empty secrets are equal", secret.String{}, secret.New(""), true},
		{"another text differs", secret.New(value), secret.New(value[1:] + "x"), false},
		{"a prefix differs", secret.New(value), secret.New(value[:3]), false},
		{"empty differs from set", secret.String{}, secret.New(value), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := tt.a.Equal(tt.b); got != tt.want {
				t.Errorf("Equal = %v, want %v", got, tt.want)
			}
		})
	}
}
