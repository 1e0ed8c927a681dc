package daemon

// ExpiryTick is how often the certificates of applications are looked at.
const ExpiryTick = expiryTick

// Fixed and Reloaded name the settings that stay as they are while the agent runs, and those that a
// reload changes.
func Fixed() (names []string) {
	for _, setting := range fixedSettings() {
		names = append(names, setting.name)
	}
	return names
}

var Reloaded = reloadedSettings
