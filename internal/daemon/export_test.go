package daemon

import (
	"context"
	"log/slog"
	"net"
	"time"
)

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

// Disconnect does with a listener what an agent does with a socket that it has no use for.
func Disconnect(ctx context.Context, ln net.Listener, pause func(context.Context, time.Duration) error) error {
	d := Daemon{opts: Options{Logger: slog.New(slog.DiscardHandler), WaitForManager: pause}}
	return d.disconnect(ctx, ln)
}
