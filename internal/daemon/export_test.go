package daemon

import "github.com/keyagent/keyagent/internal/secret"

// Read returns the value that a command would use.
func (a AuthSource) Read() (secret.String, error) { return a.read() }
