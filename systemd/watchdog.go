package systemd

import (
	"context"
	"log/slog"
	"time"
)

// Watchdog has the service manager restart a service that lives and does not work any more: it is
// fed as long as a check of the service finds no fault.
type Watchdog struct {
	Manager *Notifier
	// Check says what does not work; nil: all does. Its context ends when there is no time left
	// for it.
	Check func(context.Context) error
	// Sleep waits between two looks, or until the context ends.
	Sleep  func(ctx context.Context, d time.Duration) error
	Logger *slog.Logger
}

// Run feeds the watchdog until the context ends, twice in the time that the manager waits; where
// something is wrong, it looks again sooner. Call it when the service is ready, not before. It
// returns at once if there is no watchdog.
func (w Watchdog) Run(ctx context.Context) {
	every := w.Manager.Watchdog() / 2
	if every <= 0 {
		return
	}
	for ctx.Err() == nil {
		pause := every
		if !w.look(ctx, every/4) {
			pause = every / 4
		}
		_ = w.Sleep(ctx, pause) // the end of the context ends the loop
	}
}

// look feeds the watchdog if nothing is wrong.
func (w Watchdog) look(ctx context.Context, patience time.Duration) bool {
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := w.Check(within)
	if ctx.Err() != nil {
		return true
	}
	if err != nil {
		w.Logger.ErrorContext(ctx, "something does not work any more: if it stays so, the service manager restarts the agent", "error", err)
		return false
	}
	if err := w.Manager.Ping(); err != nil {
		w.Logger.WarnContext(ctx, "the service manager's watchdog is not fed", "error", err)
	}
	return true
}
