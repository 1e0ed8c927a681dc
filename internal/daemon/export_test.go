package daemon

import "github.com/keyagent/keyagent/internal/secret"

// ExpiryTick is how often the certificates of applications are looked at.
const ExpiryTick = expiryTick

// Read returns the value that a command would use.
func (a AuthSource) Read() (secret.String, error) { return a.read() }
