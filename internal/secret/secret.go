package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

const (
	redacted = "[redacted]"
	empty    = "[empty]"
)

// String is a secret text. The zero value is the empty secret.
//
// It cannot be compared with ==, which would be neither constant in time nor right; use
// [String.Equal].
type String struct {
	_ [0]func() // not comparable

	// A pointer, because fmt prints unexported fields by reflection without asking their methods:
	// of a string it would show the text, of a pointer inside a struct it shows an address.
	value *string
}

var (
	_ fmt.Formatter  = String{}
	_ fmt.Stringer   = String{}
	_ fmt.GoStringer = String{}
	_ slog.LogValuer = String{}
)

// New wraps s. The caller should not keep s.
func New(s string) String {
	if s == "" {
		return String{}
	}
	return String{value: &s}
}

// Reveal returns the secret itself. What it returns must not be logged, put into an error or
// written to disk.
func (s String) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether the secret is empty.
func (s String) IsZero() bool { return s.value == nil }

// Equal reports whether both secrets are the same, in a time that depends on their lengths only.
func (s String) Equal(other String) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// String returns a placeholder: "[redacted]", or "[empty]" for the empty secret.
func (s String) String() string {
	if s.IsZero() {
		return empty
	}
	return redacted
}

// GoString returns the placeholder, so that %#v shows no more than %v.
func (s String) GoString() string { return s.String() }

// Format writes the placeholder for every verb: %x and %q would otherwise work on the value.
func (s String) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue gives slog the placeholder.
func (s String) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText encodes the placeholder. A secret cannot be written by an encoder by accident: code
// that means to send it puts Reveal's result into a field of type string.
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON encodes the placeholder as a JSON string.
func (s String) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }
