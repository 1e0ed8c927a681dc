package daemon

import "github.com/keyagent/keyagent/internal/secret"

// Fixed and Reloaded name the settings that stay as they are while the agent runs, and those that a reload changes.
func Fixed() (names []string) {
	for _, setting := range fixedSettings() {
		names = append(names, setting.name)
	}
	return names
}

var Reloaded = reloadedSettings

// Read returns the value that a command would use.
func (a AuthSource) Read() (secret.String, error) { return a.read() }
