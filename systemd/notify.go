package systemd

import (
	"fmt"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/coreos/go-systemd/v22/daemon"
)

// maxStatusBytes bounds the line that `systemctl status` shows.
const maxStatusBytes = 400

// Notifier tells the service manager in which state the service is (sd_notify(3)). A nil *Notifier,
// of a program that no service manager has started, tells nobody. It is safe for concurrent use;
// nothing waits for the manager.
type Notifier struct {
	watchdog time.Duration
}

// OpenNotifier returns nil if no service manager wants to be told. Call it in the process that the
// manager has started.
func OpenNotifier() (*Notifier, error) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil, nil
	}
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("the service manager's watchdog: %w", err)
	}
	return &Notifier{watchdog: watchdog}, nil
}

// Watchdog is how long the manager waits for a [Notifier.Ping] before it kills the service; 0: it
// does not.
func (n *Notifier) Watchdog() time.Duration {
	if n == nil {
		return 0
	}
	return n.watchdog
}

// Ready says that the service has started, or has reloaded, and what it does.
func (n *Notifier) Ready(status string) error {
	return n.send(daemon.SdNotifyReady, "STATUS="+line(status))
}

// Status says what the service does, in the line that `systemctl status` shows.
func (n *Notifier) Status(status string) error { return n.send("STATUS=" + line(status)) }

// Reloading says that the configuration is being read again. [Notifier.Ready] must follow, however
// that ends: until then the manager would wait, and so would every later reload.
func (n *Notifier) Reloading() error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	return n.send(daemon.SdNotifyReloading, fmt.Sprintf("MONOTONIC_USEC=%d", now.Microseconds()))
}

// Stopping says that the service ends.
func (n *Notifier) Stopping(status string) error {
	return n.send(daemon.SdNotifyStopping, "STATUS="+line(status))
}

// Ping feeds the watchdog. The first one arms it, so none may be sent before the service is ready.
func (n *Notifier) Ping() error { return n.send(daemon.SdNotifyWatchdog) }

// ExtendTimeout has the manager wait for a time from now for the start, or the end, to come to an
// end.
func (n *Notifier) ExtendTimeout(by time.Duration) error {
	return n.send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", by.Microseconds()))
}

// send tells the manager assignments in one message.
func (n *Notifier) send(assignments ...string) error {
	if n == nil {
		return nil
	}
	if _, err := daemon.SdNotify(false, strings.Join(assignments, "\n")); err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	return nil
}

// line is a text without ends of lines and other controls, each of which would begin another
// assignment, or show on somebody's terminal; it is cut to maxStatusBytes.
func line(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if len(text) > maxStatusBytes {
		text = strings.ToValidUTF8(text[:maxStatusBytes], "") + "…"
	}
	return text
}
