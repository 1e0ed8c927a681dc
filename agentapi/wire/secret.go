package wire

import (
	"encoding"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is a text that goes over the socket as it is, and into no log, error or debug print. Take
// it out with [Secret.Reveal] where it is used. The zero value is the empty secret.
type Secret struct {
	_ [0]func() // == would compare addresses

	// A pointer, because fmt prints unexported fields by reflection, without asking their methods:
	// of a string it would show the text.
	text *string
}

// NewSecret wraps a text.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{text: &text}
}

// Reveal returns the secret in the clear.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.text == nil }

// MarshalText returns the secret in the clear: a reply is useless without it. It makes the secret a
// JSON string.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.Reveal()), nil }

// UnmarshalText takes the secret out of a reply.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}

// Format implements [fmt.Formatter] for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

var (
	_ fmt.Formatter            = Secret{}
	_ slog.LogValuer           = Secret{}
	_ encoding.TextMarshaler   = Secret{}
	_ encoding.TextUnmarshaler = (*Secret)(nil)
)
