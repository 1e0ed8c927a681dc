package token

import (
	"context"
	"time"

	"github.com/keyagent/keyagent/internal/secret"
)

// None provides no token.
type None struct{}

// Attest returns the zero token and time.
func (None) Attest(context.Context, string) (secret.String, time.Time, error) {
	return secret.String{}, time.Time{}, nil
}

// Discard does nothing: there is no token.
func (None) Discard(string) {}
